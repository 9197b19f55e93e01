"""Stage one writes the tokens of every layer here, block by block, so that a crash loses nothing that is finished.
Stage two reads any rows of them back, in any order, at the speed of the disk.
"""

from .block_writer import BlockKey, BlockWriter, Targets, open_block_writer
from .manifest import Manifest
from .reader import Split, Store, open_store
from .writer import StoreWriter, open_writer

__all__ = [
    "BlockKey",
    "BlockWriter",
    "Manifest",
    "Split",
    "Store",
    "StoreWriter",
    "Targets",
    "open_block_writer",
    "open_store",
    "open_writer",
]
