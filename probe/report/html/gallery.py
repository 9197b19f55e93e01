"""The attention maps of a run's heads, as small pictures for the page. `probe attend` draws them into the run."""

import io
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ....runtime.text import printable, utf8_text
from ..contents import Report

FOLDER = "attention"
PICTURES = {
    "attention.png": "merged map, parts and class token",
    "maps.png": "every map, in the order of the parts",
    "layers.png": "attention over layers",
}
"""The files of a cell that are shown."""
LARGEST, MOST_PIXELS = (1200, 4000), 2**26
"""Width and height of a picture on the page, in pixels. A file with more than `MOST_PIXELS` is not opened."""
MOST_BYTES = 4_000_000
"""Most bytes of all pictures together, as text in the page."""
QUALITY = 80


def gallery(report: Report) -> dict[str, Any]:
    """Return the pictures of the cells that have some, cells with the best selection figure first.

    Returns:
        `pictures`: `cell`, `source`, `head`, `layer`, `title`, `image` (a data URL), `width` and `height` in pixels.
        `left_out`: number of pictures that are too many, or cannot be read.
    """
    pictures, left_out, n_bytes = list[dict[str, Any]](), 0, 0
    for file, about in _files(report):
        picture = _small(file) if n_bytes < MOST_BYTES else None
        if picture is None or n_bytes + len(picture["image"]) > MOST_BYTES:
            left_out += 1
            continue
        n_bytes += len(picture["image"])
        pictures.append(about | picture)
    return {"pictures": pictures, "left_out": left_out}


def _files(report: Report) -> Iterator[tuple[Path, dict[str, str]]]:
    folders = {utf8_text(run.path): run.path / FOLDER for run in report.runs}
    drawn = {path: {each.name for each in folder.iterdir()} for path, folder in folders.items() if folder.is_dir()}
    cells = report.cells[[row.cell in drawn.get(row.run, ()) for row in report.cells.itertuples()]]
    for row in cells.sort_values(["val", "test"], ascending=False, kind="stable").itertuples():
        about = {"cell": row.cell, "source": row.source, "head": row.head, "layer": printable(row.layer)}
        for name, title in PICTURES.items():
            file = folders[row.run] / row.cell / name
            if file.is_file():
                yield file, about | {"title": title}


def _small(file: Path) -> dict[str, Any] | None:
    """Return a picture at the size of the page, or None if the file holds none."""
    content = io.BytesIO()
    try:
        with Image.open(file, formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                return None
            small = image.convert("RGB")
        small.thumbnail(LARGEST)
        small.save(content, "WEBP", quality=QUALITY)
    except Exception:  # a damaged file may raise any error, and costs its picture alone
        return None
    text = b64encode(content.getvalue()).decode()
    return {"image": f"data:image/webp;base64,{text}", "width": small.width, "height": small.height}
