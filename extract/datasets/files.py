"""Image files on this machine."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from ...errors import InputError
from ...runtime.text import counted, printable

logger = logging.getLogger(__name__)

ABSENT_SIZE = -1
NO_DATA = ("__MACOSX",)
POINTER = b"version https://git-lfs.github.com/spec/"
POINTER_ADVICE = "Git LFS pointer in place of the file; fetch the file with git lfs pull"
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")


def file_size(path: str) -> int:
    """Return a file's size in bytes, or `ABSENT_SIZE` if it is missing: the image is then listed as unreadable."""
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):  # a NUL in a path is a ValueError
        return ABSENT_SIZE


def read_image(path: str) -> Image.Image:
    """Decode a file as it is stored. Like torchvision's loader, it ignores the EXIF orientation."""
    with open(path, "rb") as file:
        return decode_image(file)


def decode_image(file: BinaryIO) -> Image.Image:
    """Decode the bytes of an image file.

    Raises:
        UnidentifiedImageError: the bytes are not an image; the message describes them.
        Exception: the image is damaged or too large; each decoder has its own errors.
    """
    try:
        with Image.open(file) as image:
            image.load()
            return image
    except UnidentifiedImageError:
        n_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        raise UnidentifiedImageError(_no_image(file.read(len(POINTER)), n_bytes)) from None


def _no_image(beginning: bytes, n_bytes: int) -> str:
    if beginning == POINTER:
        return f"a {POINTER_ADVICE}"
    if not n_bytes:
        return "the file is empty"
    return f"cannot identify an image in {n_bytes} bytes that begin with {beginning[:8]!r}"


def check_no_pointer(path: str) -> None:
    """Raise InputError if a data file is a Git LFS pointer."""
    with open(path, "rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise InputError(f"{path!r} is a {POINTER_ADVICE}")


def image_files(folder: str | Path) -> tuple[list[tuple[str, int]], list[str]]:
    """Return (relative path, size in bytes) of the images at any depth, sorted, and the paths of other files.

    Raises:
        InputError: a name is not UTF-8, or a link leads to a folder that contains it.
    """
    others: list[str] = []
    return sorted(_image_files(os.fspath(folder), "", (), others)), sorted(others)


def _image_files(
    folder: str, below: str, above: tuple[tuple[int, int], ...], others: list[str]
) -> Iterator[tuple[str, int]]:
    """Yield the images of a folder; `above` holds the (device, inode) pairs of its parent folders."""
    found = os.stat(folder)
    own = (found.st_dev, found.st_ino)
    if own in above:
        raise InputError(f"{folder!r} is a link to a folder that contains it, an endless loop; remove the link")
    for entry in visible(folder):
        if entry.is_dir():
            yield from _image_files(entry.path, f"{below}{entry_name(entry)}/", (*above, own), others)
        elif entry.name.lower().endswith(EXTENSIONS):
            yield below + entry_name(entry), file_size(entry.path)
        else:
            others.append(below + entry.name)


def tell_left_out(others: Sequence[str], where: str) -> None:
    """Warn about files that are no images by their names."""
    if others:
        logger.warning(
            f"{counted(len(others), 'file')} below {printable(where)} left out, such as {printable(others[0])}; an "
            f"image is a file in a class folder whose name ends in {', '.join(EXTENSIONS)}"
        )


def visible(folder: str | Path) -> "Iterator[os.DirEntry[str]]":
    """Yield the entries of a folder, without hidden ones and those that macOS puts into archives."""
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith(".") and entry.name not in NO_DATA)


def entry_name(entry: "os.DirEntry[str] | Path") -> str:
    """Return an entry's name as text.

    Raises:
        InputError: the name is not UTF-8.
    """
    if not is_utf8(entry.name):
        raise InputError(f"the name of {os.fspath(entry)!r} is not UTF-8; rename it")
    return entry.name


def is_utf8(name: str) -> bool:
    """Return whether a name that the system gave is valid text, without undecodable bytes."""
    return name.isascii() or not any(0xD800 <= ord(letter) <= 0xDFFF for letter in name)
