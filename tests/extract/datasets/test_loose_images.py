"""Images without labels, against the files that were written."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenprobe.errors import InputError, MissingError
from tokenprobe.extract.datasets.loose_images import SPLIT, LooseImages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images at different depths, with grey values 0, 1 and 2 in order of name, beside other files."""
    for value, name in enumerate(("a.png", "below/b.PNG", "below/deeper/c.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5), value, dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image either")
    return tmp_path


def test_a_folder_gives_its_images_at_any_depth_by_name(folder: Path) -> None:
    source = LooseImages(str(folder))
    assert (source.splits, source.classes) == ([SPLIT], [])
    listed = source.images(SPLIT)
    assert list(listed.ids) == ["a.png", "below/b.PNG", "below/deeper/c.png"]
    assert listed.labels.tolist() == [0, 0, 0]
    assert [np.asarray(source.load(SPLIT, index)).max() for index in range(3)] == [0, 1, 2]


def test_a_file_gives_itself(folder: Path) -> None:
    source = LooseImages(str(folder / "below" / "b.PNG"))
    assert list(source.images(SPLIT).ids) == ["b.PNG"]
    assert np.asarray(source.load(SPLIT, 0)).max() == 1


def test_the_content_changes_with_a_file(folder: Path) -> None:
    before = LooseImages(str(folder)).images(SPLIT).content
    Image.fromarray(np.zeros((40, 50), dtype=np.uint8)).save(folder / "a.png")
    assert LooseImages(str(folder)).images(SPLIT).content != before


def test_a_link_to_nothing_is_an_image_that_cannot_be_read(folder: Path) -> None:
    (folder / "b.png").symlink_to("gone.png")
    source = LooseImages(str(folder))
    assert list(source.images(SPLIT).ids) == ["a.png", "b.png", "below/b.PNG", "below/deeper/c.png"]
    with pytest.raises(FileNotFoundError):
        source.load(SPLIT, 1)


def test_a_name_that_is_no_text_is_refused(folder: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    (folder / name).write_bytes((folder / "a.png").read_bytes())
    for path in (folder, folder / name):
        with pytest.raises(InputError, match=r"the name of '.*/\\udcff.png' is not UTF-8; rename it"):
            LooseImages(str(path))


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"nothing at '.*gone'; expected an image or a folder of images there"):
        LooseImages(str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"folder '.*' holds no images \(\.jpg, "):
        LooseImages(str(tmp_path))
