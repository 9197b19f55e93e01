"""Image files on this machine."""

import os
from pathlib import Path

from PIL import Image

from ...errors import InputError

ABSENT_SIZE = -1
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")


def file_size(path: str) -> int:
    """Return a file's bytes, or `ABSENT_SIZE` if it is not there: such an image is listed, and unreadable."""
    try:
        return os.stat(path).st_size
    except OSError:
        return ABSENT_SIZE


def read_image(path: str) -> Image.Image:
    """Decode a file as it is stored: like torchvision's loader, an orientation in its EXIF is not followed."""
    with Image.open(path) as image:
        image.load()
        return image


def image_files(folder: str | Path, below: str = "") -> list[tuple[str, int]]:
    """Return (relative path, size in bytes) of the images at any depth, sorted."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                found += image_files(Path(entry.path), f"{below}{entry_name(entry)}/")
            elif entry.name.lower().endswith(EXTENSIONS):
                found.append((below + entry_name(entry), file_size(entry.path)))
    return sorted(found)


def entry_name(entry: "os.DirEntry[str] | Path") -> str:
    """Return a name that can be stored as text."""
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        raise InputError(f"the name of {os.fspath(entry)!r} is not UTF-8; rename it") from None
    return entry.name
