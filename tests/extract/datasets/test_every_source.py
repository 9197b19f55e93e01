"""Rules for all sources: the same real data set through each, and the orientation of their own loaders."""

import csv
import io
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets.folder import default_loader
from webdataset import autodecode

from tokenprobe.extract.datasets import DATASETS, describe_datasets, open_dataset
from tokenprobe.extract.datasets.from_torchvision import PUBLISHED
from tokenprobe.extract.divided import DividedSource

N = 150
Files = list[tuple[str, int, bytes]]


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The first of scikit-learn's handwritten digits: (150, 8, 8) uint8 and their labels."""
    bunch = load_digits()
    return (bunch.images[:N] * 15).astype(np.uint8), bunch.target[:N]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def write_files(folder: Path, files: Files) -> None:
    for name, label, data in files:
        path = folder / str(label) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_folder(folder: Path, files: Files) -> str:
    write_files(folder / "images", files)
    return f"folder:{folder}/images"


def write_csv(folder: Path, files: Files) -> str:
    write_files(folder, files)
    with open(folder / "t.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *((f"{label}/{name}", label) for name, label, _ in files)])
    return f"csv:{folder}/t.csv"


def write_parquet_table(folder: Path, files: Files) -> str:
    write_files(folder, files)
    columns = {"path": [f"{label}/{name}" for name, label, _ in files], "label": [label for _, label, _ in files]}
    datasets.Dataset.from_dict(columns).to_parquet(folder / "t.parquet")
    return f"parquet:{folder}/t.parquet"


def write_npz(folder: Path, files: Files) -> str:
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data))) for *_, data in files])
    np.savez(folder / "a.npz", x_train=pixels, y_train=np.array([label for _, label, _ in files]))
    return f"npz:{folder}/a.npz"


def write_hf(folder: Path, files: Files) -> str:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(label) for label in range(10)])}
    )
    columns = {
        "image": [{"bytes": data, "path": None} for *_, data in files],
        "label": [label for _, label, _ in files],
    }
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(folder / "saved")
    return f"hf:{folder}/saved"


def write_tars(folder: Path, files: Files) -> str:
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for name, label, data in files[shard::2]:
                for member, content in ((name, data), (f"{Path(name).stem}.cls", str(label).encode())):
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return f"wds:{folder}/{{0..1}}.tar"


WRITERS: dict[str, Callable[[Path, Files], str]] = {
    "folder": write_folder,
    "csv": write_csv,
    "parquet": write_parquet_table,
    "npz": write_npz,
    "hf": write_hf,
    "wds": write_tars,
}


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


def test_every_source_has_a_writer_here_or_files_of_its_own() -> None:
    assert DATASETS.keys() == WRITERS.keys() | {"torchvision", "demo"}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_real_data_set_is_read_alike(kind: str, tmp_path: Path, digits: tuple[np.ndarray, np.ndarray]) -> None:
    pixels, labels = digits
    files = [
        (f"{index:03d}.png", int(label), png(image)) for index, (image, label) in enumerate(zip(*digits, strict=True))
    ]
    source = open_dataset(WRITERS[kind](tmp_path, files))
    assert (source.splits, list(source.classes)) == (["train"], [str(label) for label in range(10)])
    images = source.images("train")
    read = [np.asarray(source.load("train", index)).tobytes() for index in range(len(images.ids))]
    assert len(set(images.ids)) == N
    assert sorted(zip(images.labels.tolist(), read, strict=True)) == sorted(
        (int(label), image.tobytes()) for image, label in zip(pixels, labels, strict=True)
    )


@pytest.fixture
def turned(tmp_path: Path) -> Files:
    """A JPEG of 12 × 8 pixels with the EXIF orientation of a quarter turn."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, format="JPEG", exif=exif)
    return [("0.jpg", 0, file.getvalue())]


def as_the_own_loader_does(kind: str, path: Path, data: bytes) -> Any:
    if kind == "hf":
        return datasets.Image().decode_example({"bytes": data, "path": None})
    return autodecode.imagehandler("pil")("jpg", data) if kind == "wds" else default_loader(str(path))


@pytest.mark.parametrize("kind", ["folder", "csv", "parquet", "hf", "wds"])
def test_an_orientation_is_followed_where_the_own_loader_follows_it(kind: str, tmp_path: Path, turned: Files) -> None:
    source = open_dataset(WRITERS[kind](tmp_path, turned))
    source.images("train")
    (tmp_path / "0.jpg").write_bytes(turned[0][2])
    theirs = as_the_own_loader_does(kind, tmp_path / "0.jpg", turned[0][2])
    image = source.load("train", 0)
    assert image.size == theirs.size == ((8, 12) if kind == "hf" else (12, 8))
    assert source.upright == DividedSource(source, 0.5, seed=0).upright == (kind == "hf")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(theirs))


def test_the_list_names_every_source_and_data_set() -> None:
    lines = describe_datasets()
    assert [line.partition(":")[0] for line in lines if not line.startswith(" ")] == list(DATASETS)
    assert ", ".join(PUBLISHED) in " ".join(line.strip() for line in lines)
    assert not any("not installed" in line for line in lines)


def test_the_list_says_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "    not installed: pip install 'tokenprobe[hf]'" in describe_datasets()


@pytest.mark.parametrize("kind", WRITERS)
def test_a_path_may_begin_at_home(kind: str, tmp_path: Path, turned: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell does not expand "~" after a colon."""
    spec = WRITERS[kind](tmp_path, [("0.png", 0, png(np.zeros((4, 4), np.uint8)))] if kind == "npz" else turned)
    monkeypatch.setenv("HOME", str(tmp_path))
    source = open_dataset(spec.replace(str(tmp_path), "~"))
    assert len(source.images("train").ids) == 1
    assert source.spec == spec
