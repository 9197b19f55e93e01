"""Tables of images in CSV and Parquet: accepted forms and refused forms."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from tokenprobe.errors import InputError, MissingError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.datasets import open_dataset
from tokenprobe.store import open_store

WriteCsv = Callable[..., str]


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Write six images of different colours and sizes in two folders; return their paths below the folder."""
    names = [f"{folder}/{index}.png" for folder in ("a", "b") for index in range(3)]
    for index, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4 + index, 5), (index, 0, 0)).save(tmp_path / name)
    return names


@pytest.fixture
def write_csv(tmp_path: Path) -> WriteCsv:
    def write(*lines: str, name: str = "t.csv") -> str:
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(tmp_path / name)

    return write


def test_a_table_without_splits_is_one_named_train(images: list[str], write_csv: WriteCsv) -> None:
    source = open_dataset("csv:" + write_csv("path,label", f"{images[4]},dog", f"{images[0]},ant", f"{images[1]},dog"))
    assert (source.name, source.splits, source.classes) == ("csv:t.csv", ["train"], ["ant", "dog"])
    listed = source.images("train")
    assert listed.ids == ["b/1.png", "a/0.png", "a/1.png"]
    assert (listed.labels.dtype, listed.labels.tolist()) == (np.int64, [1, 0, 1])
    assert [np.asarray(source.load("train", index))[0, 0, 0] for index in range(3)] == [4, 0, 1]
    assert source.load("train", 0).size == (8, 5)


def test_columns_come_in_any_order_and_others_are_ignored(images: list[str], write_csv: WriteCsv) -> None:
    lines = [f'"a, b",test,{images[0]},dog', f",train,{images[1]},ant", "", ",test,./a//2.png,cat"]
    source = open_dataset("csv:" + write_csv("\ufeffnote,split,path,label", *lines))
    assert (source.splits, source.classes) == (["test", "train"], ["ant", "cat", "dog"])
    assert source.images("test").ids == ["a/0.png", "a/2.png"]
    assert source.images("test").labels.tolist() == [2, 1]
    assert source.images("train").labels.tolist() == [0]
    assert np.asarray(source.load("test", 1))[0, 0, 0] == 2


@pytest.mark.parametrize("labels", [[2, 0, 2], ["x", "NA", "x"]], ids=["integers", "texts"])
def test_parquet_is_read_as_csv_is(images: list[str], tmp_path: Path, labels: list[Any], write_csv: WriteCsv) -> None:
    table = {"path": images[:3], "label": labels, "split": ["val", "val", "train"], "more": [[1], [2], [3]]}
    parquet.write_table(pa.table(table), tmp_path / "t.parquet")
    lines = [f"{path},{label},{split}" for path, label, split in zip(images, labels, table["split"], strict=False)]
    one, other = (
        open_dataset(f"parquet:{tmp_path}/t.parquet"),
        open_dataset("csv:" + write_csv("path,label,split", *lines)),
    )
    assert (one.splits, one.classes) == (other.splits, other.classes)
    for split in ("train", "val"):
        np.testing.assert_array_equal(one.images(split).labels, other.images(split).labels, strict=True)
        assert one.images(split).content == other.images(split).content


def test_images_of_several_classes(images: list[str], tmp_path: Path, write_csv: WriteCsv) -> None:
    sets = [["dog", "ant"], [], ["bee"]]
    lines = [f"{path},{'|'.join(of)}" for path, of in zip(images[:3], sets, strict=True)]
    parquet.write_table(pa.table({"path": images[:3], "labels": sets}), tmp_path / "t.parquet")
    listed = []
    for spec in ("csv:" + write_csv("path,labels", *lines), f"parquet:{tmp_path}/t.parquet"):
        source = open_dataset(spec)
        assert source.classes == ["ant", "bee", "dog"]
        listed.append(source.images("train"))
        np.testing.assert_array_equal(listed[-1].labels, np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]]), strict=True)
    assert listed[0].content == listed[1].content
    other = open_dataset("csv:" + write_csv("path,labels", *lines[:2], f"{images[2]},ant|bee|dog")).images("train")
    assert other.content != listed[0].content


def test_ids_do_not_depend_on_where_everything_is(images: list[str], write_csv: WriteCsv, tmp_path: Path) -> None:
    below = open_dataset("csv:" + write_csv("path,label", f"{tmp_path}/a/0.png,0", "b/2.png,1")).images("train")
    elsewhere = tmp_path / "tables"
    elsewhere.mkdir()
    table = write_csv("path,label", "a/0.png,0", f"{tmp_path}/b/2.png,1", name="tables/t.csv")
    rooted = open_dataset(f"csv:{table}?root={tmp_path}").images("train")
    assert below.ids == rooted.ids == ["a/0.png", "b/2.png"]
    assert below.content == rooted.content


def test_content_changes_with_a_label_a_size_a_path_and_an_image(
    images: list[str], write_csv: WriteCsv, tmp_path: Path
) -> None:
    def content(*lines: str) -> str:
        return open_dataset("csv:" + write_csv("path,label", *lines)).images("train").content

    contents = [
        content("a/0.png,ant", "a/1.png,bee"),
        content("a/0.png,bee", "a/1.png,ant"),
        content("a/0.png,ant", "a/2.png,bee"),
        content("a/0.png,ant"),
    ]
    Image.new("RGB", (90, 90)).save(tmp_path / "a/0.png")
    contents.append(content("a/0.png,ant", "a/1.png,bee"))
    assert len(set(contents)) == 5


def test_the_spec_opens_the_same_from_anywhere(
    images: list[str], write_csv: WriteCsv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv("path,label", "1.png,0")
    monkeypatch.chdir(tmp_path)
    specs = [open_dataset(spec).spec for spec in ("csv:t.csv", "csv:t.csv?root=a")]
    assert specs == [f"csv:{tmp_path}/t.csv", f"csv:{tmp_path}/t.csv?root={tmp_path}/a"]
    monkeypatch.chdir("/")
    assert np.asarray(open_dataset(specs[1]).load("train", 0))[0, 0, 0] == 1


def test_an_image_that_is_not_there_is_left_out_if_asked(
    images: list[str],
    image_folder: Path,
    write_csv: WriteCsv,
    tiny_config: Callable[..., ExtractConfig],
) -> None:
    table = write_csv("path,label", *(f"{name},{index % 2}" for index, name in enumerate([*images, "a/none.png"])))
    with pytest.raises(InputError, match=r"^cannot read image 'a/none.png' of split 'train' .*FileNotFoundError"):
        extract(tiny_config(data=f"csv:{table}"))
    store = open_store(extract(tiny_config(data=f"csv:{table}", skip_bad_images=True)))
    assert sorted(store["train"].ids) == images
    assert store.manifest.splits["train"].skipped == ["a/none.png"]
    assert store["train"].labels.tolist() == [images.index(key) % 2 for key in store["train"].ids]


def test_images_of_several_classes_through_a_store(
    images: list[str], write_csv: WriteCsv, tiny_config: Callable[..., ExtractConfig]
) -> None:
    sets = {name: [f"c{label}" for label in range(3) if index & 1 << label] for index, name in enumerate(images)}
    table = write_csv("path,labels", *(f"{name},{'|'.join(of)}" for name, of in sets.items()))
    store = open_store(extract(tiny_config(data=f"csv:{table}", layers="0", split_fraction=0.34)))
    assert (len(store["train"]), len(store["test"])) == (4, 2)
    for split in ("train", "test"):
        expected = [[int(f"c{label}" in sets[key]) for label in range(3)] for key in store[split].ids]
        np.testing.assert_array_equal(store[split].labels, np.array(expected, dtype=np.int64), strict=True)
    assert store["train"].classes == ["c0", "c1", "c2"]


def test_blanks_around_names_of_columns_labels_and_splits_do_not_count(images: list[str], write_csv: WriteCsv) -> None:
    plain, wide = (["path,label,split", "a/0.png,dog,train"], ["path, label , split", "a/0.png, dog , train"])
    one, other = (open_dataset("csv:" + write_csv(*lines)) for lines in (plain, wide))
    assert (one.splits, one.classes) == (other.splits, other.classes) == (["train"], ["dog"])
    source = open_dataset("csv:" + write_csv("path,labels", "a/0.png,dog | ant", "a/1.png,  "))
    assert (source.classes, source.images("train").labels.tolist()) == (["ant", "dog"], [[1, 1], [0, 0]])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_pointer_of_git_lfs_says_so(tmp_path: Path, kind: str) -> None:
    (tmp_path / "t").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(InputError, match=r"^'.*/t' is a Git LFS pointer in place of the file; fetch the file with git"):
        open_dataset(f"{kind}:{tmp_path}/t")


def test_a_path_with_a_nul_is_refused(write_csv: WriteCsv) -> None:
    with pytest.raises(InputError, match=r"^image 0 of '.*t.csv' has path 'a\\x00b.png'; expected a path$"):
        open_dataset("csv:" + write_csv("path,label", "a\0b.png,0"))


def test_a_table_whose_images_are_all_elsewhere_says_how_to_give_the_folder(write_csv: WriteCsv) -> None:
    source = open_dataset("csv:" + write_csv("path,label", "x/0.png,0", "x/1.png,0"))
    message = r"^none of the 2 images of split 'train' exists, such as 'x/0.png' in '.*'; .* csv:.*t\.csv\?root=FOLDER$"
    with pytest.raises(MissingError, match=message):
        source.images("train")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has columns none; expected path, label \\(or labels for several per image\\), and split"),
        (["file,label", "a.png,0"], "has columns file, label; expected path, label "),
        (["path,label,labels", "a,0,0"], "has columns path, label, labels; expected path, label "),
        (
            ["path,labels", "a,0|"],
            r"^'.*t.csv' holds \['0', ''\]; expected class names or indices, none of them empty$",
        ),
        (["path,label"], "lists no images$"),
        (["path,label", "a,0", "b"], "^line 3 of '.*t.csv' has 1 fields, but the header has 2$"),
        (["path,label", "a,0,1"], "^line 2 of '.*t.csv' has 3 fields, but the header has 2$"),
        (["path,label,label", "a,0,1"], "^'.*t.csv' has 2 columns 'label'; keep one of them$"),
        (["path,label", '"a,0'], "is not a readable CSV file in UTF-8: unexpected end of data$"),
        (["path,label", ",0"], "^image 0 of '.*t.csv' has path ''; expected a path$"),
        (["path,label", "a,-3"], "^label -3 in '.*t.csv': integers are class indices"),
        (
            ["path,label", "a/0.png,0", "a/../a/0.png,1"],
            "lists 'a/0.png' more than once in split 'train'; an image has",
        ),
    ],
)
def test_tables_of_another_form_are_refused(write_csv: WriteCsv, lines: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_dataset("csv:" + write_csv(*lines))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a", None], "label": [0, 1]}, "^image 1 of '.*' has path None; expected a path$"),
        ({"path": ["a", "b"], "label": [0.0, 1.0]}, "^image 0 of '.*' has label 0.0; expected text or an integer$"),
        ({"path": ["a"], "label": [True]}, "has label True; expected text or an integer$"),
        ({"path": ["a\0b"], "label": [0]}, r"^image 0 of '.*' has path 'a\\x00b'; expected a path$"),
        ({"path": ["a"], "labels": [[None]]}, r"has labels \[None\]; expected texts or integers$"),
        ({"path": ["a"], "label": [0], "split": [3]}, "has split 3; expected text$"),
        ({"path": ["a"], "labels": [[0.5]]}, r"has labels \[0.5\]; expected texts or integers$"),
        ({"path": ["a"], "labels": ["0"]}, "has labels '0'; expected texts or integers$"),
        ({"path": ["a"]}, "has columns path; expected path, label "),
        ({"x": [1]}, "has columns x; expected path, label "),
    ],
)
def test_parquet_tables_of_another_form_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=message):
        open_dataset(f"parquet:{tmp_path}/t.parquet")


def test_a_parquet_table_that_repeats_a_column_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array([0]), pa.array([1])], names=["path", "label", "label"])
    parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"^'.*t.parquet' has 2 columns 'label'; keep one of them$"):
        open_dataset(f"parquet:{tmp_path}/t.parquet")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_missing_file_and_one_of_another_kind_are_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(MissingError, match=r"^no file at '.*none'; expected a table of images there$"):
        open_dataset(f"{kind}:{tmp_path}/none")
    Image.new("RGB", (9, 9)).save(tmp_path / "t.png")
    with pytest.raises(InputError, match=r"is not a readable (CSV|Parquet) file"):
        open_dataset(f"{kind}:{tmp_path}/t.png")
