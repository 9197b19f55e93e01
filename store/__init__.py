"""The token store: the only thing that extraction and probing share."""

from .manifest import Manifest
from .reader import Split, Store, open_store
from .writer import BlockKey, StoreWriter, open_writer

__all__ = ["BlockKey", "Manifest", "Split", "Store", "StoreWriter", "open_store", "open_writer"]
