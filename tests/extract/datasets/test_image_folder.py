"""Class folders: recognition of splits, classes and images."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenprobe.errors import InputError, MissingError
from tokenprobe.extract.datasets import open_dataset
from tokenprobe.extract.datasets.image_folder import ImageFolder

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Make a folder of the given files (small images; a name that ends in "/" is an empty folder)."""

    def make(*names: str) -> Path:
        root = tmp_path / "data"
        root.mkdir(exist_ok=True)
        for name in names:
            path = root / name
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                Image.new("RGB", (4, 4)).save(path, format="PNG")
        return root

    return make


def test_class_folders_alone_are_one_split_named_train(tree: Tree) -> None:
    source = ImageFolder(str(tree("bee/2.png", "ant/1.png", "ant/0.png")))
    assert source.splits == ["train"]
    assert source.classes == ["ant", "bee"]
    images = source.images("train")
    assert images.ids == ["ant/0.png", "ant/1.png", "bee/2.png"]
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == [0, 0, 1]


def test_a_level_above_class_folders_is_the_splits(tree: Tree) -> None:
    source = ImageFolder(str(tree("train/ant/0.png", "train/bee/0.png", "val/ant/7.png")))
    assert source.splits == ["train", "val"]
    assert source.images("val").ids == ["ant/7.png"]


def test_classes_are_the_union_over_splits_so_labels_agree(tree: Tree) -> None:
    source = ImageFolder(str(tree("train/bee/0.png", "train/dog/0.png", "test/ant/0.png", "test/dog/0.png")))
    assert source.classes == ["ant", "bee", "dog"]
    assert source.images("train").labels.tolist() == [1, 2]
    assert source.images("test").labels.tolist() == [0, 2]


def test_ids_and_content_do_not_depend_on_where_the_folder_is_or_what_else_is_there(tree: Tree) -> None:
    root = tree("train/ant/0.png", "train/bee/1.png")
    before = ImageFolder(str(root)).images("train")
    tree("test/ant/9.png")
    moved = root.rename(root.with_name("moved"))
    after = ImageFolder(str(moved)).images("train")
    assert (after.ids, after.content) == (before.ids, before.content)


def test_content_changes_with_a_size_a_name_and_a_class(tree: Tree) -> None:
    root = tree("ant/0.png", "ant/1.png", "bee/2.png")
    contents = [ImageFolder(str(root)).images("train").content]
    Image.new("RGB", (40, 41), "red").save(root / "ant" / "0.png")
    contents.append(ImageFolder(str(root)).images("train").content)
    (root / "ant" / "1.png").rename(root / "ant" / "3.png")
    contents.append(ImageFolder(str(root)).images("train").content)
    (root / "ant" / "3.png").rename(root / "bee" / "3.png")
    contents.append(ImageFolder(str(root)).images("train").content)
    assert len(set(contents)) == 4


def test_hidden_files_are_ignored(tree: Tree) -> None:
    root = tree("ant/0.png", "ant/.1.png", "bee/4.PNG", ".cache/x/1.png")
    (root / "ant" / "notes.txt").write_text("not an image")
    (root / "README.md").write_text("not a class")
    assert ImageFolder(str(root)).images("train").ids == ["ant/0.png", "bee/4.PNG"]


def test_hidden_folders_within_a_class_are_ignored(tree: Tree) -> None:
    assert ImageFolder(str(tree("train/ant/0.png", "train/ant/.thumbs/1.png"))).images("train").ids == ["ant/0.png"]


def test_images_lie_at_any_depth_below_their_class(tree: Tree) -> None:
    source = ImageFolder(str(tree("train/ant/0.png", "train/ant/more/1.png", "train/ant/more/still/2.png")))
    assert source.images("train").ids == ["ant/0.png", "ant/more/1.png", "ant/more/still/2.png"]


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["ant/2020/0.png", "bee/wild/1.png", "cat/2.png"], "no two hold folders of the same name"),
        (["ant/0.png", "ant/more/1.png", "bee/2.png"], "some hold images beside folders"),
        (["ant/0.png", "ant/more/1.png", "bee/more/2.png"], "some hold images beside folders"),
    ],
)
@pytest.mark.usefixtures("messages")
def test_folders_below_classes_do_not_make_splits_of_them(
    tree: Tree, names: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ImageFolder(str(tree(*names)))
    assert (source.splits, source.images("train").ids) == (["train"], sorted(names))
    assert source.classes == sorted({name.partition("/")[0] for name in names})
    said = capsys.readouterr().err
    assert "are classes, with images at any depth: none is named like a split" in said
    assert why in said


@pytest.mark.usefixtures("messages")
def test_splits_of_any_name_are_splits_if_they_hold_the_same_classes(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    """Domains share one list of classes. Classes with folders of years look alike, so the user gets a warning."""
    source = ImageFolder(str(tree("photo/dog/0.png", "photo/ant/1.png", "sketch/dog/2.png")))
    assert (source.splits, source.classes) == (["photo", "sketch"], ["ant", "dog"])
    assert (
        "are splits: 'photo', 'sketch'; if they are classes, move them into a folder train" in capsys.readouterr().err
    )


@pytest.mark.parametrize("names", [["Train/ant/0.png", "Val/bee/1.png"], ["test/ant/0.png"], ["validation2/ant/0.png"]])
@pytest.mark.usefixtures("messages")
def test_folders_named_like_splits_are_splits_without_a_word(
    tree: Tree, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ImageFolder(str(tree(*names))).splits == [name.partition("/")[0] for name in names]
    assert capsys.readouterr().err == ""


def test_one_folder_of_class_folders_is_a_split(tree: Tree) -> None:
    source = ImageFolder(str(tree("photos/ant/0.png", "photos/bee/1.png")))
    assert (source.splits, source.classes) == (["photos"], ["ant", "bee"])


def test_what_macos_adds_to_archives_is_no_split_and_no_class(tree: Tree) -> None:
    source = ImageFolder(str(tree("train/ant/0.png", "__MACOSX/train/ant/._0.png", "train/__MACOSX/ant/._0.png")))
    assert (source.splits, source.classes, source.images("train").ids) == (["train"], ["ant"], ["ant/0.png"])


def test_class_folders_beside_split_folders_are_not_dropped_silently(tree: Tree) -> None:
    """test/ holds images but no class folders, like ImageNet's: an error, unless another split is wanted."""
    source = ImageFolder(str(tree("test/0.png", "train/ant/1.png")))
    assert source.splits == ["test", "train"]
    with pytest.raises(InputError, match=r"split folder '.*test' holds images but no class folders; .*--split"):
        source.images("test")
    assert source.images("train").ids == ["ant/1.png"]


def test_images_are_decoded_whole(tree: Tree) -> None:
    root = tree("ant/0.png", "bee/0.png")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(root / "bee" / "0.png")
    source = ImageFolder(str(root))
    source.images("train")
    np.testing.assert_array_equal(np.asarray(source.load("train", 1)), pixels)


def test_the_name_holds_no_folders(tree: Tree) -> None:
    assert ImageFolder(str(tree("ant/0.png"))).name == "folder:data"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"^no folder at '.*/none'; expected class folders of images there$"):
        ImageFolder(str(tmp_path / "none"))


@pytest.mark.parametrize("names", [(), ("0.png", "1.png"), (".hidden/0.png",)])
def test_a_folder_without_class_folders_says_what_is_expected(tree: Tree, names: tuple[str, ...]) -> None:
    message = "^folder '.*/data' holds no class folders; expected PATH/SPLIT/CLASS/images or PATH/CLASS/images$"
    with pytest.raises(InputError, match=message):
        ImageFolder(str(tree(*names)))


def test_an_empty_class_folder_is_named(tree: Tree) -> None:
    source = ImageFolder(str(tree("train/ant/0.png", "train/bee/")))
    with pytest.raises(InputError, match=r"^class folder '.*/train/bee' holds no images \(\.jpg, .*\); remove it or"):
        source.images("train")


@pytest.mark.parametrize("spec", ["folder:{}", "{}"])
def test_a_path_alone_means_a_folder(tree: Tree, spec: str) -> None:
    assert open_dataset(spec.format(tree("ant/0.png"))).classes == ["ant"]


@pytest.mark.parametrize("spec", ["folder:", ""])
def test_no_path_is_not_the_current_folder(tree: Tree, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree("ant/0.png"))
    with pytest.raises((InputError, MissingError), match="no folder at ''"):
        open_dataset(spec)


def test_an_unknown_source_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"^unknown data source 'foldr'; known: folder, "):
        open_dataset("foldr:imagenet")


def test_a_name_that_is_no_text_is_refused(tree: Tree) -> None:
    root = tree("ant/0.png")
    (root / "ant" / "0.png").rename(os.fsdecode(os.fsencode(root / "ant") + b"/\xff.png"))
    with pytest.raises(InputError, match="is not UTF-8; rename it"):
        ImageFolder(str(root)).images("train")


def test_the_spec_opens_the_same_from_anywhere(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree("ant/0.png")
    monkeypatch.chdir(root.parent)
    for spec in (root.name, f"folder:{root.name}", str(root)):
        assert open_dataset(spec).spec == f"folder:{root}"


def test_files_that_are_left_out_are_counted(tree: Tree, caplog: pytest.LogCaptureFixture) -> None:
    """They are no images by their names, or lie beside the class folders."""
    root = tree("train/ant/0.png", "train/ant/deep/1.jfif", "train/ant/.hidden", "train/loose.png", "test/ant/0.png")
    source = ImageFolder(str(root))
    assert source.images("train").ids == ["ant/0.png"]
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        f"2 files below {root}/train left out, such as loose.png"
    ]
    caplog.clear()
    source.images("test")
    assert not caplog.records
