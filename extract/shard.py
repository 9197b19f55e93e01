"""Declaring a store that several shards write: each plans alone, and one of them, whoever is first, declares it.

Nothing rests on a lock: the folder of a new store is made once, and who makes it declares. The others wait for that,
and check that the declaration equals their plan. Declaring twice does no harm: equal plans give equal files.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import LockedError
from ..store import Manifest, StoreWriter, Targets, open_writer
from ..store.block_writer import declares
from ..store.claim import check_path
from ..store.contract import IDS, LABELS, StoreFiles
from ..store.formats import store_files
from ..store.journal import read_records

logger = logging.getLogger(__name__)

PATIENCE, PAUSE = 20.0, 0.1
"""Seconds that a shard waits for another one to declare the store, and seconds between two looks."""


def declare_once(
    out: str | Path, manifest: Manifest, targets: Mapping[str, Targets], begin: Callable[[StoreWriter], None]
) -> None:
    """Declare a store, unless another shard has declared it or does so now.

    Args:
        out: path of the store.
        manifest: the parts wanted by all shards.
        targets: labels and ids of each split.
        begin: called with the leader before it declares.

    Raises:
        LockedError: another process holds the store's lock and declares something else.
        StoreError: the store was made differently, or something else is there.
    """
    check_path(out)
    files = store_files(out)
    files.folder.parent.mkdir(parents=True, exist_ok=True)
    waits_until = time.monotonic() + (0 if _is_first(files, manifest) else PATIENCE)
    while not is_declared(files, manifest):
        try:
            if time.monotonic() >= waits_until:
                with open_writer(out, manifest) as leader:
                    begin(leader)
                    leader.declare(targets)
        except LockedError:
            if time.monotonic() >= waits_until + PATIENCE:
                raise
        time.sleep(PAUSE)


def is_declared(files: StoreFiles, manifest: Manifest) -> bool:
    """Whether a store declares all parts of a manifest, and has its metadata, labels and ids."""
    if not files.exists():
        return False
    stored = files.read_manifest()
    rows = [
        name for split in manifest.splits for array in (LABELS, IDS) for name in files.whole_names(f"{split}/{array}")
    ]
    return declares(stored, manifest) and read_records(files.folder).keys() >= {*files.metadata_names(stored), *rows}


def _is_first(files: StoreFiles, manifest: Manifest) -> bool:
    """Whether this process makes the folder, or a store is there that is to be extended."""
    try:
        files.folder.mkdir()
    except FileExistsError:
        return files.exists() and not declares(files.read_manifest(), manifest)
    return True
