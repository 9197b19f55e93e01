"""Stores and images that several files of tests read."""

import shutil
from pathlib import Path

import pytest

from tokenprobe.extract import ExtractConfig, extract, loaded
from tokenprobe.extract.datasets import open_dataset

from ..conftest import TINY_VIT
from .kit import BAD, CountingSource


@pytest.fixture(scope="session")
def whole(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole store of `tiny_config`, extracted by one process. Tests must not change it."""
    return Path(extract(whole_config(image_folder, tmp_path_factory.mktemp("whole") / "whole.zarr")))


def whole_config(image_folder: Path, out: Path, views: int = 1) -> ExtractConfig:
    return ExtractConfig(
        model="timm:VisionTransformer",
        model_arg=TINY_VIT,
        no_pretrained=True,
        data=f"folder:{image_folder}",
        out=out,
        batch_size=4,
        workers=0,
        views=views,
    )


@pytest.fixture(scope="session")
def whole_of_three_views(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with three views, extracted at once."""
    return Path(extract(whole_config(image_folder, tmp_path_factory.mktemp("views") / "whole.zarr", views=3)))


@pytest.fixture
def broken_folder(image_folder: Path, tmp_path: Path) -> Path:
    """The shared images, one of them truncated."""
    folder = Path(shutil.copytree(image_folder, tmp_path / "broken"))
    file = folder / "train" / BAD
    file.write_bytes(file.read_bytes()[:200])
    return folder


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> list[CountingSource]:
    """The sources that extractions open, in order. They decode in this process, which counts the loads."""
    opened: list[CountingSource] = []

    def open_counting(spec: str) -> CountingSource:
        opened.append(CountingSource(open_dataset(spec)))
        return opened[-1]

    monkeypatch.setattr(loaded, "open_dataset", open_counting)
    return opened
