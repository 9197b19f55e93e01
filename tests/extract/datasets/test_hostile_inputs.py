"""Specs and files of any content: a source reads each one, or refuses it in one line.

Inputs are drawn by hypothesis, the same in every run.
"""

import io
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from tokenprobe.errors import TokenprobeError
from tokenprobe.extract.datasets import DATASETS, open_dataset
from tokenprobe.extract.datasets.files import read_image
from tokenprobe.extract.datasets.tar_patterns import expand_braces
from tokenprobe.extract.views import to_rgb

drawn = settings(
    derandomize=True, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


read_or_refused = suppress(TokenprobeError, OSError)
"""Let deliberate refusals pass."""


def read_all(spec: str) -> None:
    """Open a source, list all its splits, and check the assumptions of the rest of the program."""
    with read_or_refused:
        source = open_dataset(spec)
        for split in source.splits:
            with read_or_refused:
                images = source.images(split)
                assert len(images.ids) == len(images.labels) == len(set(images.ids))
                assert images.labels.dtype == np.int64 and images.labels.ndim in (1, 2)
                n_values = len(source.classes) if images.labels.ndim == 1 else 2
                assert np.isin(images.labels, range(n_values)).all()
                assert images.labels.shape[1:] in ((), (len(source.classes),))
                "\n".join([*images.ids, *source.classes]).encode()


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set an empty working folder, and block the network."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    return tmp_path / "a" / "b"


WORDS = [
    "?",
    "&",
    "=",
    ":",
    "{",
    "}",
    ",",
    "..",
    "*",
    "a",
    "train",
    "label",
    "image",
    "root",
    "config",
    "val",
    "\0",
    "é",
]
SPECS = st.lists(st.sampled_from([*WORDS, "9", "0", " ", "\n", "%", "[", "\udcff"]), max_size=8).map("".join)


@drawn
@given(source=st.sampled_from([*sorted(DATASETS.keys() - {"demo"}), "foldr", ""]), text=SPECS)
def test_specs(source: str, text: str) -> None:
    read_all(f"{source}:{text}" if source else text)


@drawn
@given(
    pattern=st.lists(st.sampled_from(["{", "}", "..", ",", "9", "0", "10", "*", "a", "-"]), max_size=10).map("".join)
)
def test_patterns(pattern: str) -> None:
    with read_or_refused:
        assert all(isinstance(name, str) for name in expand_braces(pattern))


CELLS = [
    "a.png",
    "b.png",
    "../c.png",
    "cat",
    "dog",
    "0",
    "-1",
    "1e9",
    "7" * 5000,
    "",
    " ",
    "\0",
    "\ufeff",
    "|",
    "a|b",
    '"',
    ",",
    "\r",
]
ROWS = st.lists(st.lists(st.sampled_from(CELLS), min_size=2, max_size=3).map(",".join), max_size=5)


@drawn
@given(header=st.sampled_from(["path,label", "path,labels", "path,label,split", "label", "path, label"]), rows=ROWS)
def test_tables(header: str, rows: list[str], empty_folder: Path) -> None:
    (empty_folder / "a.png").write_bytes(b"x")
    (empty_folder / "t.csv").write_text("\n".join([header, *rows]), encoding="utf-8", newline="")
    read_all(f"csv:{empty_folder}/t.csv")


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=3)
)


@drawn
@given(
    path=st.lists(VALUES, min_size=2, max_size=2),
    label=st.lists(VALUES | st.lists(VALUES, max_size=2), min_size=2, max_size=2),
)
def test_parquet_of_any_type(path: list[Any], label: list[Any], empty_folder: Path) -> None:
    try:
        table = pa.table({"path": path, "label": label})
    except (pa.ArrowException, TypeError, OverflowError):  # values that no column holds together
        return
    parquet.write_table(table, empty_folder / "t.parquet")
    read_all(f"parquet:{empty_folder}/t.parquet")


def whole_csv(file: Path) -> None:
    file.write_text("path,label,split\na.png,dog,train\na.png,ant,test\n")


def whole_parquet(file: Path) -> None:
    parquet.write_table(pa.table({"path": ["a.png", "b.png"], "label": ["dog", "ant"]}), file)


def whole_npz(file: Path) -> None:
    np.savez(file, x_train=np.zeros((2, 4, 4), np.uint8), y_train=np.array([0, 1]), classes=np.array(["ant", "dog"]))
    Path(f"{file}.npz").rename(file)


def whole_tar(file: Path) -> None:
    with tarfile.open(file, "w") as tar:
        for name, data in (("0.png", b"x"), ("0.cls", b"dog"), ("1.png", b"y"), ("1.cls", b"ant")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def whole_image(file: Path) -> None:
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert("P").save(file, "PNG", transparency=3)


WHOLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "csv": (whole_csv, "csv:{}"),
    "parquet": (whole_parquet, "parquet:{}"),
    "npz": (whole_npz, "npz:{}"),
    "wds": (whole_tar, "wds:{}"),
}
DAMAGE = st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=4)), min_size=1, max_size=3)


@pytest.mark.parametrize("kind", WHOLE)
@drawn
@given(damage=DAMAGE, cut=st.none() | st.integers(0, 4000))
def test_damaged_files(kind: str, damage: list[tuple[int, bytes]], cut: int | None, empty_folder: Path) -> None:
    """A file with changed bytes anywhere, or a missing end."""
    make, spec = WHOLE[kind]
    (empty_folder / "a.png").write_bytes(b"x")
    make(empty_folder / "data")
    damage_file(empty_folder / "data", damage, cut)
    read_all(spec.format(empty_folder / "data"))


def damage_file(file: Path, damage: list[tuple[int, bytes]], cut: int | None) -> None:
    data = bytearray(file.read_bytes())
    for place, new in damage:
        start = place % len(data)
        data[start : start + len(new)] = new
    file.write_bytes(data[:cut] if cut is not None else data)


@drawn
@given(damage=DAMAGE, cut=st.none() | st.integers(0, 200))
def test_damaged_images(damage: list[tuple[int, bytes]], cut: int | None, empty_folder: Path) -> None:
    """Decoders raise their own errors, which the loading of images catches."""
    whole_image(empty_folder / "a.png")
    damage_file(empty_folder / "a.png", damage, cut)
    with suppress(Exception):
        assert to_rgb(read_image(f"{empty_folder}/a.png")).mode == "RGB"


SHAPES = st.lists(st.integers(-1, 3) | st.sampled_from([2**31, 2**40, 2**62, 2**63, 2**70]), max_size=4).map(tuple)
TYPES = st.sampled_from(["|u1", "<i8", "<u8", "<f4", "|b1", "<U3", "|S3", "|O", "<M8[s]", "|V2", "nonsense"])


@drawn
@given(x_shape=SHAPES, y_shape=SHAPES, x_type=TYPES, y_type=TYPES, names=SHAPES)
def test_arrays_of_any_shape_and_type(
    x_shape: tuple[int, ...],
    y_shape: tuple[int, ...],
    x_type: str,
    y_type: str,
    names: tuple[int, ...],
    empty_folder: Path,
) -> None:
    """The header only declares shapes; the file holds no such array."""
    with zipfile.ZipFile(empty_folder / "a.npz", "w") as file:
        for name, shape, kind in (
            ("x_train", x_shape, x_type),
            ("y_train", y_shape, y_type),
            ("classes", names, "<U3"),
        ):
            file.writestr(f"{name}.npy", array_bytes(shape, kind))
    read_all(f"npz:{empty_folder}/a.npz")


def array_bytes(shape: tuple[int, ...], kind: str) -> bytes:
    """Make a .npy file by hand: a header, and 100 bytes."""
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(100)


KEYS = st.sampled_from(["0", "1", "a/0", ".0", "__x__/0", "é", "\udcff", "n" * 300])
SUFFIXES = st.sampled_from([".png", ".cls", ".PNG", ".a.png", ""])
NAMES = st.tuples(KEYS, SUFFIXES).map("".join) | KEYS.map(lambda key: f"{key}.png\n{key}.cls")
"""Names of one member, or of two members that form a sample."""


@drawn
@given(
    members=st.lists(
        st.tuples(NAMES, st.sampled_from([0, 1, 511, 512, 2**33, 2**63, -1, -(2**40)]), st.sampled_from("0xgLK5S1")),
        max_size=5,
    )
)
def test_tars_of_any_headers(members: list[tuple[str, int, str]], empty_folder: Path) -> None:
    """The headers only declare sizes; types are files, pax headers, long names, folders, sparse files and links."""
    with open(empty_folder / "a.tar", "wb") as file:
        for names, size, kind in members:
            for name in names.split("\n"):
                file.write(header_bytes(name, size, kind) + bytes(512) * (0 < size <= 512))
        file.write(bytes(1024))
    read_all(f"wds:{empty_folder}/a.tar")


def header_bytes(name: str, size: int, kind: str) -> bytes:
    block = bytearray(512)
    encoded = os.fsencode(name)[:100]
    block[: len(encoded)] = encoded
    block[100:108] = b"0000644\0"
    negative = 255 if size < 0 else 128
    block[124:136] = f"{size:011o}\0".encode() if 0 <= size < 2**33 else (size % 2**88 | negative << 88).to_bytes(12)
    block[156:157] = kind.encode()
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


FOLDERS = st.lists(
    st.sampled_from(["train", "ant", "bee", "a", ".x", "__MACOSX", "0.png", "1.PNG", "é", "e\u0301"]),
    min_size=1,
    max_size=4,
)


@drawn
@given(paths=st.lists(FOLDERS, max_size=4), link=st.none() | FOLDERS)
def test_folders(paths: list[list[str]], link: list[str] | None, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("folder")
    for parts in paths:
        path = root.joinpath(*parts)
        if not any(each.is_file() for each in (path, *path.parents)) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix:
                path.write_bytes(b"x")
            else:
                path.mkdir()
    if link is not None:
        place = root.joinpath(*link)
        if place.parent.is_dir() and not place.exists():
            place.symlink_to(root)
    read_all(f"folder:{root}")
