"""Image files on this machine."""

import os

from PIL import Image

ABSENT_SIZE = -1


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
