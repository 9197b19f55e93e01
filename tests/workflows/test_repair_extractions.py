"""Repair of stores made by several extractions, and of unfinished stores."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tokenprobe.errors import InputError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.store.verify import verify
from tokenprobe.workflows.repair import repair

from .repair_kit import FORMATS, config_of, content_of, delete, make_images, marks_of, some_blocks

MakeConfig = Callable[..., ExtractConfig]
BAD = "train/bee/07.png"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def broken_folder(image_folder: Path, tmp_path: Path) -> Path:
    """The shared images, one of them overwritten with as many zero bytes."""
    folder = Path(shutil.copytree(image_folder, tmp_path / "broken"))
    (folder / BAD).write_bytes(bytes((image_folder / BAD).stat().st_size))
    return folder


@pytest.mark.parametrize("format", FORMATS)
def test_a_store_that_several_extractions_made_is_mended_by_all_of_them(
    images: Path, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images.parent)
    out = tmp_path / f"a.{format}"
    for changes in ({"layers": "0", "views": 1}, {"split": ["test"], "layers": "1"}, {"split": ["train"]}, {}):
        views = 1 if changes.get("split") == ["test"] else 2
        extract(config_of(Path("images.npz"), out, **{"views": views} | changes))
    expected, before = content_of(out), marks_of(out)
    names = [some_blocks(out, 1, array)[0] for array in ("train/layer_00/", "test/layer_01/", "train/layer_01/mean")]
    monkeypatch.chdir(tmp_path)
    delete(out, names)
    assert repair(out) == []
    assert content_of(out) == expected
    assert {name: mark for name, mark in marks_of(out).items() if name not in names} == {
        name: mark for name, mark in before.items() if name not in names
    }


@pytest.mark.parametrize("format", FORMATS)
def test_a_store_that_grew_is_mended_by_all_its_extractions(images: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / f"a.{format}"
    for limit in (8, 14, None):
        extract(config_of(images, out, limit=limit))
    expected = content_of(out)
    blocks = some_blocks(out, 20, "train/layer_00/mean")
    delete(out, [blocks[0], blocks[-1]])
    assert {problem.kind for problem in verify(out)} == {"missing"}
    assert repair(out) == []
    assert content_of(out) == expected


@pytest.mark.parametrize("format", FORMATS)
def test_an_extraction_that_stopped_is_finished(
    tiny_config: MakeConfig, image_folder: Path, broken_folder: Path, tmp_path: Path, format: str
) -> None:
    config = tiny_config(data=str(broken_folder), batch_size=2, out=tmp_path / f"a.{format}")
    with pytest.raises(InputError, match="cannot read image 'bee/07"):
        extract(config)
    before = marks_of(Path(config.out))
    assert {problem.kind for problem in verify(config.out)} == {"unfinished"}
    shutil.copy(image_folder / BAD, broken_folder / BAD)
    assert repair(config.out) == []
    whole = Path(extract(replace(config, out=tmp_path / "whole" / f"a.{format}")))
    assert content_of(Path(config.out)) == content_of(whole)
    assert before.items() <= marks_of(Path(config.out)).items()


@pytest.mark.parametrize("format", FORMATS)
def test_images_left_out_by_a_later_extraction_are_left_out_by_all(
    tiny_config: MakeConfig, broken_folder: Path, tmp_path: Path, format: str
) -> None:
    config = tiny_config(data=str(broken_folder), layers="0", batch_size=2, out=tmp_path / f"a.{format}")
    with pytest.raises(InputError, match="give --skip-bad-images"):
        extract(config)
    out = Path(extract(replace(config, skip_bad_images=True)))
    expected = content_of(out)
    delete(out, some_blocks(out, 2, "train/layer_00/patch"))
    assert repair(out) == []
    assert content_of(out) == expected
