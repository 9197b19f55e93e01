"""The file of one block: header, rows in order, padding, hash, and no final name until it is complete."""

import os
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_64_hexdigest

from tokenprobe.errors import StoreError
from tokenprobe.store.array_spec import ArraySpec
from tokenprobe.store.block_file import BlockFile
from tokenprobe.store.quantize import DTYPES

from .disk import fill_up_for


@pytest.mark.parametrize("header", [b"", b"header" * 100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_written_in_order_and_the_record_describes_the_file(tmp_path: Path, dtype: str, header: bytes) -> None:
    values = (np.random.default_rng(0).standard_normal((6, 4, 3)) * 30).astype(np.int8).astype(DTYPES[dtype].stored)
    file = make_file(tmp_path, n_rows=6, dtype=dtype, header=header)
    for start, stop in ((0, 1), (1, 4), (4, 4), (4, 6)):
        file.append(values[start:stop])
    record = file.finish()
    data = (tmp_path / "c.0.0").read_bytes()
    assert data == header + values.tobytes()
    assert (record.file, record.size, record.xxh3) == ("c.0.0", len(data), xxh3_64_hexdigest(data))
    assert [path.name for path in tmp_path.iterdir()] == ["c.0.0"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_partial_block_is_filled_up_and_hashed_as_written(tmp_path: Path, dtype: str) -> None:
    fill = {"float16": np.nan, "bfloat16": 0x7FC0, "float32": np.nan, "int8": -128}[dtype]
    values = np.ones((2, 4, 3), DTYPES[dtype].stored)
    file = make_file(tmp_path, n_rows=2, block_rows=5, dtype=dtype)
    file.append(values)
    record = file.finish()
    data = (tmp_path / "c.0.0").read_bytes()
    stored = np.frombuffer(data, values.dtype).reshape(5, 4, 3)
    np.testing.assert_array_equal(stored[:2], values)
    np.testing.assert_array_equal(stored[2:], np.full((3, 4, 3), fill, values.dtype))
    assert (record.size, record.xxh3) == (5 * 4 * 3 * values.itemsize, xxh3_64_hexdigest(data))


def test_values_that_are_not_contiguous_are_written_in_their_logical_order(tmp_path: Path) -> None:
    values = np.arange(3 * 4 * 2, dtype=np.float16).reshape(3, 4, 2).transpose(2, 1, 0)[::-1]  # (2, 4, 3)
    file = make_file(tmp_path, n_rows=2)
    file.append(values)
    file.finish()
    stored = np.fromfile(tmp_path / "c.0.0", np.float16).reshape(2, 4, 3)
    np.testing.assert_array_equal(stored, values)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("factor", [1, 2])
def test_a_file_that_another_writer_finished_stays_and_is_the_one_recorded(
    tmp_path: Path, recorded: bool, factor: int
) -> None:
    """The other's bytes may differ, and it may have been killed before it recorded them."""
    values = np.ones((2, 4, 3), np.float16)
    file, again = make_file(tmp_path, n_rows=2), make_file(tmp_path, n_rows=2)
    file.append(values)
    again.append(factor * values)
    record = file.finish()
    about = (tmp_path / "c.0.0").stat()
    assert again.finish(record if recorded else None) == record
    assert record.xxh3 == xxh3_64_hexdigest(values.tobytes())
    assert ((tmp_path / "c.0.0").stat().st_ino, (tmp_path / "c.0.0").read_bytes()) == (about.st_ino, values.tobytes())
    assert [path.name for path in tmp_path.iterdir()] == ["c.0.0"]


def test_a_file_of_another_size_gives_way(tmp_path: Path) -> None:
    (tmp_path / "c.0.0").write_bytes(b"cut off")
    file, values = make_file(tmp_path, n_rows=2), np.ones((2, 4, 3), np.float16)
    file.append(values)
    assert file.finish().xxh3 == xxh3_64_hexdigest(values.tobytes())
    assert (tmp_path / "c.0.0").read_bytes() == values.tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["c.0.0"]


def test_no_name_before_finish_and_nothing_left_when_abandoned(tmp_path: Path) -> None:
    file = make_file(tmp_path, n_rows=2)
    file.append(np.ones((2, 4, 3), np.float16))
    assert not (tmp_path / "c.0.0").exists()
    file.abandon()
    assert list(tmp_path.iterdir()) == []


def test_a_header_that_finds_no_space_leaves_neither_file_nor_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_up_for(monkeypatch, tmp_path / "c.0.0")
    n_open = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No space left"):
        make_file(tmp_path, n_rows=2, header=b"header")
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == n_open


def test_writers_of_one_block_at_once_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    files = [make_file(tmp_path, n_rows=1) for _ in range(3)]
    for number, file in enumerate(files):
        file.append(np.full((1, 4, 3), number, np.float16))
    assert len(list(tmp_path.iterdir())) == 3
    records = {file.finish() for file in reversed(files)}
    assert len(records) == 1
    np.testing.assert_array_equal(np.fromfile(tmp_path / "c.0.0", np.float16), 2)


@pytest.mark.parametrize("values", [np.ones((1, 4, 3), np.float32), np.ones((1, 3, 4), np.float16)])
def test_another_type_or_shape_is_not_written(tmp_path: Path, values: np.ndarray) -> None:
    file = make_file(tmp_path, n_rows=1)
    with pytest.raises(AssertionError):
        file.append(values)
    file.abandon()


def test_the_rows_are_on_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, disk_calls: list[tuple[str, Path]]
) -> None:
    file, values = make_file(tmp_path, n_rows=2, block_rows=3), np.ones((2, 4, 3), np.float16)
    file.append(values)
    record = file.finish()
    growing, whole = tmp_path / "c.0.0.tmp", tmp_path / "c.0.0"
    assert disk_calls == [("write", growing), ("fsync", growing), ("link", whole), ("fsync", tmp_path)]
    disk_calls.clear()
    again = make_file(tmp_path, n_rows=2, block_rows=3)
    again.append(values)
    assert again.finish(record) == record
    assert disk_calls == [("write", growing)], "the file that is there is on disk already"


@pytest.mark.parametrize("more", [1, 3])
@pytest.mark.parametrize("block_rows", [2, 6])
def test_more_rows_than_a_block_holds_are_refused_and_not_written(tmp_path: Path, more: int, block_rows: int) -> None:
    """The last block of a split has room for more rows, but more rows are refused."""
    file = make_file(tmp_path, n_rows=2, block_rows=block_rows)
    file.append(np.ones((2, 4, 3), np.float16))
    message = (
        f"^block file '{tmp_path}/c.0.0' holds 2 rows, but {2 + more} were given; append each row of a block once$"
    )
    with pytest.raises(StoreError, match=message):
        file.append(np.ones((more, 4, 3), np.float16))
    (growing,) = tmp_path.iterdir()
    assert growing.stat().st_size == 2 * 4 * 3 * 2
    file.abandon()


def test_a_block_is_not_finished_before_its_last_row(tmp_path: Path) -> None:
    file = make_file(tmp_path, n_rows=3)
    file.append(np.ones((2, 4, 3), np.float16))
    with pytest.raises(StoreError, match=r"holds 3 rows, but only 2 were given; append each row of a block once$"):
        file.finish()
    file.abandon()
    assert list(tmp_path.iterdir()) == []


def make_file(
    folder: Path, n_rows: int, block_rows: int | None = None, dtype: str = "float16", header: bytes = b""
) -> BlockFile:
    spec = ArraySpec("train/layer_00/patch", 1, n_rows, block_rows or n_rows, (4, 3), DTYPES[dtype])
    return BlockFile(folder, "c.0.0", spec, n_rows, header)
