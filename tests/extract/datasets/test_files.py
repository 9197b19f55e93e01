"""Sizes and pixels of image files."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from tokenprobe.errors import InputError
from tokenprobe.extract.datasets.files import ABSENT_SIZE, POINTER, file_size, image_files, read_image


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


def test_a_path_with_a_nul_is_no_file() -> None:
    assert file_size("a\0b") == ABSENT_SIZE


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "^the file is empty$"),
        (b"not an image", "^cannot identify an image in 12 bytes that begin with b'not an i'$"),
        (POINTER + b"v1\noid sha256:0\n", "^a Git LFS pointer in place of the file; fetch the file with git lfs pull$"),
    ],
)
def test_a_file_that_is_no_image_says_what_it_is(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(UnidentifiedImageError, match=message):
        read_image(f"{tmp_path}/a.jpg")


def test_an_image_that_unpacks_to_too_much_is_an_error(tmp_path: Path) -> None:
    """A PNG of a few bytes that claims 40,000 × 40,000 pixels."""
    Image.new("1", (8, 8)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = struct.pack(">II", 40_000, 40_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(Image.DecompressionBombError, match="exceeds limit"):
        read_image(f"{tmp_path}/a.png")


def test_a_link_to_a_folder_above_has_no_end(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "0.png").write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.png").write_bytes(b"xy")
    (tmp_path / "a" / "one").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a" / "two").symlink_to(tmp_path / "elsewhere")
    assert image_files(tmp_path / "a")[0] == [("0.png", 1), ("one/1.png", 2), ("two/1.png", 2)], (
        "links aside are folders"
    )
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    with pytest.raises(InputError, match=r"^'.*/a/b/up' is a link to a folder that contains it, .*; remove the link$"):
        image_files(tmp_path / "a")


def test_what_macos_adds_to_archives_is_no_data(tmp_path: Path) -> None:
    for name in ("a/0.png", "__MACOSX/a/0.png", "a/._0.png", ".DS_Store"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert image_files(tmp_path)[0] == [("a/0.png", 1)]
