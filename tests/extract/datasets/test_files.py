"""Sizes and pixels of image files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenprobe.extract.datasets.files import ABSENT_SIZE, file_size, read_image


def test_the_size_of_a_file_and_of_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    assert file_size(f"{tmp_path}/a") == 3
    assert file_size(f"{tmp_path}/b") == file_size(f"{tmp_path}/a/b") == ABSENT_SIZE


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
def test_an_image_is_decoded_whole_in_its_own_mode(tmp_path: Path, mode: str) -> None:
    pixels = np.arange(63, dtype=np.uint8).reshape(9, 7)
    image = Image.fromarray(pixels.astype(np.uint16)) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "a.png")
    read = read_image(f"{tmp_path}/a.png")
    assert (read.mode, read.size) == (mode, (7, 9))
    np.testing.assert_array_equal(np.asarray(read), np.asarray(image))


def test_half_a_file_is_an_error(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match="truncated"):
        read_image(f"{tmp_path}/a.jpg")
