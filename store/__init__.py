"""Stage one writes the tokens of every layer here, block by block, so that a crash loses nothing that is finished.
Stage two reads any rows of them back, in any order, at the speed of the disk.
"""

from .manifest import Manifest
from .reader import Split, Store, open_store
from .writer import BlockKey, StoreWriter, Targets, open_writer

__all__ = ["BlockKey", "Manifest", "Split", "Store", "StoreWriter", "Targets", "open_store", "open_writer"]
