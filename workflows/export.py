"""`probe export`: chosen layers and splits of a store as plain files, or as a compressed store."""

import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export, and to where. Every field is a flag of `probe export` of the same name.

    Attributes:
        out: folder to make.
        to: "npy", "safetensors" or "zarr" (compressed); zarr if `out` ends in .zarr.
        layers: "all", "last4", or indices such as "0,5,-1".
        split: splits to export; all that the store has if empty.
        tokens: arrays to export, of "patch", "prefix" and "mean"; all that the store has if empty.
        dtype: of patch and prefix tokens in npy ("float16" or "float32") or safetensors ("bfloat16" too); by default
            that of the store, or what it is read as where the form has no such.
    """

    out: str | Path
    to: str | None = None
    layers: str = "all"
    split: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    dtype: str | None = None


def export(store: str | Path, config: ExportConfig) -> Path:
    """Write part of a store in another form.

    Args:
        store: path of the store, or an address.
        config: what, as what, to where.

    Returns:
        The path of the new folder.

    Raises:
        TokenprobeError: something asked for cannot be had; the message says what to do.
    """
    from ..store import open_store  # numpy loads here, so that `probe --help` does without
    from ..store.export import choose_form, export_store, exported_bytes, select
    from .progress import ByteProgress

    out = Path(config.out)
    form = choose_form(config.out, config.to)
    opened = open_store(store)
    chosen = select(opened, form, layers=config.layers, splits=config.split, tokens=config.tokens, dtype=config.dtype)
    with ByteProgress("export", exported_bytes(opened, chosen)) as progress:
        export_store(opened, out, form, chosen, progress.advance)
        seconds = progress.seconds
    n_bytes = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{out}: {n_bytes / 1e6:,.1f} MB in {seconds:.1f} s", file=sys.stderr, flush=True)
    return out
