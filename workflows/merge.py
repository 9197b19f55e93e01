"""`probe merge`: complete a store or a run that several commands made in shares, or say what is missing."""

from pathlib import Path

from ..errors import RunError, StoreError
from ..runtime.text import counted
from ..store import StoreWriter, open_store
from ..store.claim import claimed
from ..store.formats import store_files
from ..store.health import take_stock
from ..store.outputs import is_run

N_SHOWN = 5


def merge(path: str | Path) -> str:
    """Complete a store or a run. See `merge_store` and `merge_run`."""
    folder = Path(path)
    return merge_run(folder) if is_run(folder) or (folder / "parts").is_dir() else merge_store(path)


def merge_run(path: Path) -> str:
    """Make one run of its parts, write its report, and return a line for people.

    Raises:
        LockedError: another process writes to the run.
        RunError: there are no parts, or a part lacks cells; the message names it.
    """
    from ..probe.fitting.parts import has_parts, merge_parts
    from ..probe.report import write_report
    from ..probe.run.results import open_run

    if not has_parts(path):
        raise RunError(
            f"{str(path)!r} has no parts to merge: they are merged already, or no probe fit --shard made any"
        )
    with open_run(path) as run:
        merge_parts(run)
        write_report(run)
    return f"{path}: complete"


def merge_store(path: str | Path) -> str:
    """Take over what all writers of a store recorded, and seal it if every declared file is there.

    Args:
        path: of the store.

    Returns:
        A line for people.

    Raises:
        LockedError: another process leads the store.
        MissingError: there is nothing at `path`.
        StoreError: files are missing, and the message names the layers; or the store has lost its journal.
    """
    files = store_files(path)
    files.check_there()
    with claimed(files):
        writer = StoreWriter(files, files.read_manifest())
        try:
            complete = writer.seal()
        finally:
            writer.close()
    if not complete:
        raise StoreError(f"{str(path)!r} is not complete: {_missing(path)}; run the shards that are missing again")
    return f"{path}: complete"


def _missing(path: str | Path) -> str:
    stock = take_stock(open_store(path))
    assert stock is not None, "it has a journal"
    lacking = [
        f"{split} layer {layer} lacks {counted(blocks.n_all - blocks.n_done, 'block')} of {blocks.n_all}"
        for (split, layer), blocks in sorted(stock.unfinished.items())
    ]
    more = [f"{len(lacking) - N_SHOWN} more layers lack some"] if len(lacking) > N_SHOWN else []
    return ", ".join(lacking[:N_SHOWN] + more) or counted(stock.n_missing, "file") + " missing"
