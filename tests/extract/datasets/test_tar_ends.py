"""Tars that end otherwise than the format says: the samples are read, and a warning says which may be missing."""

import tarfile
from pathlib import Path

import pytest

from tokenprobe.extract.datasets import open_dataset

from .test_webdataset_tars import encoded, stream, write_tar

NO_MARK = "has no end-of-archive mark: if it was cut short, samples are missing; compare its size with the original's"
MORE = "has data after its end-of-archive mark: if several tars were joined, the first alone is read; keep them apart"


def write_samples(path: Path, *keys: str) -> bytes:
    """Write a tar, and return its bytes up to the end of its last member."""
    write_tar(path, [member for key in keys for member in ((f"{key}.png", encoded(3)), (f"{key}.cls", b"1"))])
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    return path.read_bytes()[: last.offset_data + tarfile.BLOCKSIZE]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("n_zeros", [0, 1, 511])
def test_a_tar_without_its_mark_is_read_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, n_zeros: int
) -> None:
    tar = tmp_path / "a.tar"
    members = write_samples(tar, "x", "y", "z")
    whole = open_dataset(f"wds:{tar}").images("train").ids
    assert warnings_of(caplog) == []
    tar.write_bytes(members + bytes(n_zeros))
    listed = open_dataset(f"wds:{tar}").images("train")
    assert listed.ids == whole == [sample["__key__"] for sample in stream(str(tar))]
    assert warnings_of(caplog) == [f"{str(tar)!r} {NO_MARK}"]


def test_a_tar_that_was_cut_between_samples_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    n_kept = len(write_samples(tmp_path / "a.tar", "x", "y"))
    members = write_samples(tmp_path / "a.tar", "x", "y", "z")
    (tmp_path / "a.tar").write_bytes(members[:n_kept])
    assert open_dataset(f"wds:{tmp_path}/a.tar").images("train").ids == ["x", "y"]
    assert warnings_of(caplog) == [f"{str(tmp_path / 'a.tar')!r} {NO_MARK}"]


def test_joined_tars_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_samples(tmp_path / "a.tar", "x", "y")
    write_samples(tmp_path / "b.tar", "z")
    joined = tmp_path / "joined.tar"
    joined.write_bytes((tmp_path / "a.tar").read_bytes() + bytes(2**20) + (tmp_path / "b.tar").read_bytes())
    listed = open_dataset(f"wds:{joined}").images("train")
    assert listed.ids == ["x", "y"] == [sample["__key__"] for sample in stream(str(joined))]
    assert warnings_of(caplog) == [f"{str(joined)!r} {MORE}"]


def test_many_odd_tars_are_one_warning_per_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train-0", "train-1", "train-2", "val"):
        (tmp_path / f"{name}.tar").write_bytes(write_samples(tmp_path / f"{name}.tar", name))
    write_samples(tmp_path / "train-1.tar", "fine")
    open_dataset(f"wds:{tmp_path}/train-{{0..2}}.tar?val={tmp_path}/val.tar")
    train, val = f"'{tmp_path}/train-0.tar' (and 1 other tar) {NO_MARK}", f"'{tmp_path}/val.tar' {NO_MARK}"
    assert warnings_of(caplog) == [train, val]


@pytest.mark.parametrize("blocks", [1, 2, 20, 3000])
def test_any_number_of_empty_blocks_is_an_end(tmp_path: Path, caplog: pytest.LogCaptureFixture, blocks: int) -> None:
    members = write_samples(tmp_path / "a.tar", "x")
    (tmp_path / "a.tar").write_bytes(members + bytes(blocks * tarfile.BLOCKSIZE))
    assert open_dataset(f"wds:{tmp_path}/a.tar").images("train").ids == ["x"]
    assert warnings_of(caplog) == []
