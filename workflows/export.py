"""`probe export`: chosen layers and splits of a store as plain files, or as a compressed store."""

import logging
from pathlib import Path

from ..errors import NoSpaceError
from ..runtime.text import size_text
from ..store import open_store
from ..store.durable import free_bytes
from ..store.export import choose_form, export_store, exported_bytes, select
from ..store.outputs import check_folder
from .config import ExportConfig
from .progress import ByteProgress

logger = logging.getLogger(__name__)


def export(store: str | Path, config: ExportConfig) -> Path:
    """Write part of a store in another form.

    Args:
        store: path of the store, or an address.
        config: parts of the store, their new form, and the folder to create.

    Returns:
        The path of the new folder.

    Raises:
        TokenprobeError: a setting cannot be met; the message says what to do.
    """
    out = check_folder(config.out)
    form = choose_form(config.out, config.to)
    opened = open_store(store)
    chosen = select(opened, form, layers=config.layers, splits=config.split, tokens=config.tokens, dtype=config.dtype)
    needed, free = exported_bytes(opened, chosen), free_bytes(out)
    if form != "zarr" and needed > free:  # the compressed size is not known beforehand
        raise NoSpaceError(
            f"the export needs {size_text(needed)} and {str(out)!r} has {size_text(free)} free; "
            "export fewer --layers or --split, or write to another disk"
        )
    with ByteProgress("export", needed) as progress:
        export_store(opened, out, form, chosen, progress.advance)
        seconds = progress.seconds
    n_bytes = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    logger.info(f"{out}: {size_text(n_bytes)} in {seconds:.1f} s")
    return out
