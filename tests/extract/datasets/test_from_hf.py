"""Data sets of the `datasets` package, from files made here, against that package's own rows."""

import re
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, UnidentifiedImageError
from pyarrow import parquet

from tokenprobe.errors import InputError, MissingError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.datasets import open_dataset
from tokenprobe.store import open_store

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the package's cache in a temporary folder, and block the network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def encoded(index: int) -> bytes:
    file = BytesIO()
    Image.fromarray(PIXELS[index]).save(file, format="PNG")
    return file.getvalue()


def write_parquet(folder: Path, split: str, features: datasets.Features | None = None, **columns: Any) -> Path:
    """Write DATA/SPLIT-00000-of-00001.parquet, the form of data sets on the hub."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{split}-00000-of-00001.parquet"
    if features is None:
        parquet.write_table(pa.table(columns), file)
    else:
        datasets.Dataset.from_dict(columns, features=features).to_parquet(file)
    return file


def images(*indices: int) -> list[dict[str, Any]]:
    return [{"bytes": encoded(index), "path": None} for index in indices]


NAMED = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat"])})


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "org" / "name"
    write_parquet(folder, "train", NAMED, image=images(0, 1, 2), label=[2, 0, 2])
    write_parquet(folder, "test", NAMED, image=images(3, 4), label=[0, 1])
    return folder


def test_splits_labels_classes_and_pixels(hub_folder: Path) -> None:
    source = open_dataset(f"hf:{hub_folder}")
    assert (source.name, source.spec) == ("hf:name", f"hf:{hub_folder}")
    assert (source.splits, source.classes) == (["test", "train"], ["ant", "bee", "cat"])
    train = source.images("train")
    assert train.ids == ["train/000000", "train/000001", "train/000002"]
    assert (train.labels.dtype, train.labels.tolist()) == (np.int64, [2, 0, 2])
    assert source.images("test").labels.tolist() == [0, 1]
    for split, first, n in (("train", 0, 3), ("test", 3, 2)):
        for index in range(n):
            np.testing.assert_array_equal(np.asarray(source.load(split, index)), PIXELS[first + index])


def test_class_folders_are_read_as_the_package_does(tmp_path: Path) -> None:
    for name, index in (("train/bee/0", 0), ("train/ant/1", 1), ("test/bee/2", 2)):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / f"{name}.png").write_bytes(encoded(index))
    source = open_dataset(f"hf:{tmp_path}/tree")
    theirs = datasets.load_dataset(str(tmp_path / "tree"))
    for split in ("train", "test"):
        listed = source.images(split)
        assert listed.labels.tolist() == theirs[split]["label"]
        for index, row in enumerate(theirs[split]):
            np.testing.assert_array_equal(np.asarray(source.load(split, index)), np.asarray(row["image"]))
    assert source.classes == ["ant", "bee"]


def test_one_parquet_file_and_a_saved_data_set(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "p", "x", NAMED, image=images(0, 1), label=[1, 0])
    saved = datasets.Dataset.from_dict({"image": images(0, 1), "label": [1, 0]}, features=NAMED)
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"val": saved.select([1])}).save_to_disk(tmp_path / "dict")
    for path, split, index in (
        (file, "train", [0, 1]),
        (tmp_path / "one", "train", [0, 1]),
        (tmp_path / "dict", "val", [1]),
    ):
        source = open_dataset(f"hf:{path}")
        assert source.splits == [split]
        assert source.images(split).labels.tolist() == [[1, 0][i] for i in index]
        np.testing.assert_array_equal(np.asarray(source.load(split, 0)), PIXELS[index[0]])


@pytest.mark.parametrize(
    ("labels", "indices", "classes"),
    [([3, 0, 3], [3, 0, 3], ["0", "1", "2", "3"]), (["b", "a", "b"], [1, 0, 1], ["a", "b"])],
)
def test_columns_without_types_are_taken_as_named(
    tmp_path: Path, labels: list[Any], indices: list[int], classes: list[str]
) -> None:
    write_parquet(tmp_path / "p", "train", png=[encoded(index) for index in range(3)], kind=labels)
    source = open_dataset(f"hf:{tmp_path}/p?image=png&label=kind")
    assert source.images("train").labels.tolist() == indices
    assert source.classes == classes
    np.testing.assert_array_equal(np.asarray(source.load("train", 2)), PIXELS[2])


def test_a_configuration_is_part_of_the_name(hub_folder: Path) -> None:
    (hub_folder / "small").mkdir()
    for file in hub_folder.glob("*.parquet"):
        file.rename(hub_folder / "small" / file.name)
    (hub_folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: few\n  data_files:\n  - split: test\n    path: small/test*\n---\n"
    )
    source = open_dataset(f"hf:{hub_folder}?config=few")
    assert (source.name, source.splits) == ("hf:name?config=few", ["test"])
    assert source.images("test").labels.tolist() == [0, 1]


def test_one_of_several_label_columns_is_named(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine": datasets.ClassLabel(names=["a", "b"]),
            "coarse": datasets.ClassLabel(names=["x"]),
        }
    )
    write_parquet(tmp_path / "p", "train", features, img=images(0, 1), fine=[1, 0], coarse=[0, 0])
    message = (
        r"^'hf:.*' has 2 columns of the type ClassLabel \(fine, coarse\); add label=COLUMN, with one of img, fine, "
        "coarse$"
    )
    with pytest.raises(InputError, match=message):
        open_dataset(f"hf:{tmp_path}/p")
    assert open_dataset(f"hf:{tmp_path}/p?label=fine").classes == ["a", "b"]


def test_images_of_several_classes(tmp_path: Path) -> None:
    named = datasets.Features(
        {"image": datasets.Image(), "tags": datasets.Sequence(datasets.ClassLabel(names=["a", "b", "c"]))}
    )
    write_parquet(tmp_path / "named", "train", named, image=images(0, 1, 2), tags=[[2, 0], [], [1]])
    write_parquet(tmp_path / "plain", "train", image=[encoded(i) for i in range(3)], tags=[["c", "a"], [], ["b"]])
    for spec in (f"hf:{tmp_path}/named", f"hf:{tmp_path}/plain?image=image&label=tags"):
        source = open_dataset(spec)
        assert source.classes == ["a", "b", "c"]
        labels = source.images("train").labels
        np.testing.assert_array_equal(labels, np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]]), strict=True)


@pytest.mark.parametrize("tags", [[-1], None])
def test_lists_that_do_not_say_which_classes_are_refused(tmp_path: Path, tags: list[int] | None) -> None:
    named = datasets.Features(
        {"image": datasets.Image(), "tags": datasets.Sequence(datasets.ClassLabel(names=["a", "b"]))}
    )
    write_parquet(tmp_path / "p", "train", named, image=images(0, 1), tags=[[0], tags])
    with pytest.raises(InputError, match=rf"^column 'tags' of 'hf:.*' holds {re.escape(str(tags))}; expected"):
        open_dataset(f"hf:{tmp_path}/p")


def test_content_changes_with_a_size_a_label_and_a_class(tmp_path: Path) -> None:
    renamed = datasets.Features(NAMED | {"label": datasets.ClassLabel(names=["ant", "bee", "dog"])})
    made = [(NAMED, images(0, 1), [0, 1]), (NAMED, images(1, 2), [0, 1]), (NAMED, images(0, 1), [0, 2])]
    made += [(renamed, images(0, 1), [0, 1]), (NAMED, images(0), [0])]
    made[1][1][0]["bytes"] += b"longer"
    contents = []
    for number, (features, of_rows, labels) in enumerate([*made, made[0]]):
        write_parquet(tmp_path / str(number), "train", features, image=of_rows, label=labels)
        contents.append(open_dataset(f"hf:{tmp_path}/{number}").images("train").content)
    assert contents[0] == contents[-1]
    assert len(set(contents)) == 5


def test_images_with_an_orientation_are_turned_upright_as_the_package_does(tmp_path: Path) -> None:
    file, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS[0]).save(file, format="JPEG", exif=exif)
    rows = [{"bytes": file.getvalue(), "path": None}]
    write_parquet(tmp_path / "p", "train", NAMED, image=rows, label=[0])
    image = open_dataset(f"hf:{tmp_path}/p").load("train", 0)
    theirs = datasets.Image().decode_example(rows[0])
    assert image.size == theirs.size == (6, 7), "7 × 6 pixels before"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(theirs))


def test_through_a_store_in_workers_with_a_damaged_image(
    tiny_config: Callable[..., ExtractConfig], tmp_path: Path
) -> None:
    rows = [*images(0, 1, 2, 3), {"bytes": b"no image", "path": None}, None]
    write_parquet(tmp_path / "p", "train", NAMED, image=rows, label=[0, 1, 2, 0, 1, 2])
    config: dict[str, Any] = {"data": f"hf:{tmp_path}/p", "layers": "0", "workers": 1, "row_order": "dataset"}
    with pytest.raises(
        InputError, match=r"^cannot read image 'train/000004' of split 'train' .*UnidentifiedImageError"
    ):
        extract(tiny_config(**config))
    store = open_store(extract(tiny_config(**config, skip_bad_images=True)))
    assert store.manifest.splits["train"].skipped == ["train/000004", "train/000005"]
    assert store["train"].labels.tolist() == [0, 1, 2, 0]
    assert store["train"].classes == ["ant", "bee", "cat"]
    with pytest.raises(ValueError, match=r"^the row holds None instead of an image$"):
        open_dataset(config["data"]).load("train", 5)


def test_a_split_without_labels_is_left_out_by_naming_others(tmp_path: Path) -> None:
    write_parquet(tmp_path / "p", "train", NAMED, image=images(0), label=[0])
    write_parquet(tmp_path / "p", "test", NAMED, image=images(1, 2), label=[-1, None])
    source = open_dataset(f"hf:{tmp_path}/p")
    with pytest.raises(InputError, match=r"^2 of 2 images in split 'test' of 'hf:.*' have no label, .* --split"):
        source.images("test")
    assert source.images("train").labels.tolist() == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("?label=lable", "^unknown column of hf:name 'lable'; known: label, image$"),
        ("?split=train", "^unknown option of hf: 'split'; known: config, image, label$"),
        ("?image=label", "^column 'label' of 'hf:.*' is ClassLabel.*; expected images, their bytes or their paths$"),
    ],
)
def test_wrong_options_list_what_is_known(hub_folder: Path, options: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_dataset(f"hf:{hub_folder}{options}")


@pytest.mark.parametrize("label", [0.5, True, [0.5]])
def test_labels_of_another_kind_are_refused(tmp_path: Path, label: Any) -> None:
    write_parquet(tmp_path / "p", "train", image=[encoded(0)] * 2, label=pa.array([label, label]))
    with pytest.raises(
        InputError, match=rf"^column 'label' of 'hf:.*' holds {re.escape(str(label))}; expected text or integers$"
    ):
        open_dataset(f"hf:{tmp_path}/p?image=image&label=label")


def test_no_column_of_images_says_so(tmp_path: Path) -> None:
    write_parquet(tmp_path / "p", "train", x=[1])
    with pytest.raises(InputError, match=r"has 0 columns of the type Image \(none\); add image=COLUMN, with one of x$"):
        open_dataset(f"hf:{tmp_path}/p")


@pytest.mark.parametrize("name", ["nobody/nothing", "./none"])
def test_what_cannot_be_loaded_is_named_in_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError, match=rf"^cannot load hf:{name} \(.+\); check the name and \?config="):
        open_dataset(f"hf:{name}")


def test_the_package_that_is_needed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"^hf: data needs the package datasets: pip install 'tokenprobe\[hf\]'$"):
        open_dataset("hf:org/name")


@pytest.mark.parametrize("saved_as", ["torch", "numpy", "arrow", "undecoded"])
def test_images_are_read_in_whatever_format_they_were_saved(tmp_path: Path, saved_as: str) -> None:
    rows = datasets.Dataset.from_dict({"image": images(0, 1), "label": [1, 0]}, features=NAMED)
    undecoded = rows.cast_column("image", datasets.Image(decode=False))
    (undecoded if saved_as == "undecoded" else rows.with_format(saved_as)).save_to_disk(tmp_path / "saved")
    source = open_dataset(f"hf:{tmp_path}/saved")
    assert source.images("train").labels.tolist() == [1, 0]
    for index in range(2):
        np.testing.assert_array_equal(np.asarray(source.load("train", index)), PIXELS[index])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "a Git LFS pointer in place of the file; fetch the file with",
        ),
        (b"no image", "cannot identify an image in 8 bytes that begin with b'no image'"),
    ],
)
def test_what_is_no_image_says_what_it_is(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "0.png").write_bytes(data)
    write_parquet(tmp_path / "p", "train", NAMED, image=[{"bytes": data, "path": None}], label=[0])
    write_parquet(tmp_path / "paths", "train", image=[f"{tmp_path}/0.png"], label=[0])
    for spec in (f"hf:{tmp_path}/p", f"hf:{tmp_path}/paths?image=image&label=label"):
        with pytest.raises(UnidentifiedImageError, match=message):
            open_dataset(spec).load("train", 0)


def test_files_of_data_that_git_lfs_left_out_are_named(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "p", "train", NAMED, image=images(0), label=[0])
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for path in (file, tmp_path / "p"):
        with pytest.raises(
            InputError, match=rf"^'{re.escape(str(file))}' is a Git LFS pointer in place of the file; fetch"
        ):
            open_dataset(f"hf:{path}")


def test_a_saved_data_set_without_splits_says_so(tmp_path: Path) -> None:
    datasets.DatasetDict({}).save_to_disk(tmp_path / "saved")
    with pytest.raises(MissingError, match=r"^hf:.*/saved has no splits; check the name and \?config=$"):
        open_dataset(f"hf:{tmp_path}/saved")
