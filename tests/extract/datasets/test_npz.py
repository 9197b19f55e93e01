"""Images in one .npz: accepted forms and refused forms."""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenprobe.errors import InputError, MissingError
from tokenprobe.extract.datasets import open_dataset
from tokenprobe.extract.datasets.npz import NpzImages

X = np.random.default_rng(0).integers(0, 256, (4, 6, 8)).astype(np.uint8)
Y = np.array([0, 1, 2, 1])


def write(path: Path, **arrays: Any) -> str:
    np.savez(path / "a.npz", **arrays)
    return str(path / "a.npz")


@pytest.mark.parametrize("shape", [(4, 6, 8), (4, 6, 8, 3)], ids=["grey", "colour"])
def test_images_come_back_pixel_for_pixel(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    source = open_dataset(f"npz:{write(tmp_path, x_train=pixels, y_train=Y)}")
    for index in range(4):
        np.testing.assert_array_equal(np.asarray(source.load("train", index)), pixels[index])


def test_splits_labels_ids_and_classes(tmp_path: Path) -> None:
    path = write(tmp_path, x_train=X, y_train=Y, x_test=X[:1], y_test=np.array([2], dtype=np.uint8))
    source = NpzImages(path)
    assert (source.name, source.spec) == ("npz:a.npz", f"npz:{path}")
    assert source.splits == ["test", "train"]
    assert source.classes == ["0", "1", "2"]
    images = source.images("train")
    assert images.ids == [f"train/00000{index}" for index in range(4)]
    assert images.labels.tolist() == [0, 1, 2, 1]
    assert source.images("test").labels.dtype == np.int64


def test_class_names_may_come_along(tmp_path: Path) -> None:
    path = write(tmp_path, x_train=X, y_train=Y, classes=np.array(["ant", "bee", "cat", "dog"]))
    assert NpzImages(path).classes == ["ant", "bee", "cat", "dog"]


def test_content_changes_with_a_label_a_pixel_and_a_size(tmp_path: Path) -> None:
    pixel, label = X.copy(), Y.copy()
    pixel[3, 5, 7] ^= 1
    label[3] = 2
    forms = [(X, Y), (pixel, Y), (X, label), (X[:3], Y[:3]), (X.reshape(4, 8, 6), Y)]
    contents = [NpzImages(write(tmp_path, x_train=x, y_train=y)).images("train").content for x, y in forms]
    assert len(set(contents)) == len(forms)
    again = NpzImages(write(tmp_path, x_train=X, y_train=Y.astype(np.int16), x_test=X, y_test=Y))
    assert again.images("train").content == contents[0], "other splits and integer types do not matter"


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (X.astype(np.float32), r"float32 \(4, 6, 8\)"),
        (X.astype(np.int16), r"int16 \(4, 6, 8\)"),
        (X.reshape(4, 48), r"uint8 \(4, 48\)"),
        (np.zeros((4, 6, 8, 4), np.uint8), r"uint8 \(4, 6, 8, 4\)"),
        (np.zeros((4, 3, 6, 8), np.uint8), r"uint8 \(4, 3, 6, 8\)"),
        (np.uint8(3), r"uint8 \(\)"),
        (np.zeros((4, 0, 8), np.uint8), r"uint8 \(4, 0, 8\)"),
    ],
)
def test_pixels_of_another_form_are_refused(tmp_path: Path, pixels: Any, found: str) -> None:
    message = rf"^x_train in '.*a\.npz' is {found}; expected uint8 \(n, H, W\) or \(n, H, W, 3\)$"
    with pytest.raises(InputError, match=message):
        NpzImages(write(tmp_path, x_train=pixels, y_train=Y))


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (None, "nothing"),
        (Y[:3], r"int64 \(3,\)"),
        (Y.astype(np.float64), r"float64 \(4,\)"),
        (Y > 0, r"bool \(4,\)"),
        (Y[:, None, None], r"int64 \(4, 1, 1\)"),
        (np.array([b"a", b"b", b"c", b"d"]), r"\|S1 \(4,\)"),
        (np.array([["a", "b"]] * 4), r"<U1 \(4, 2\)"),
    ],
)
def test_labels_of_another_form_are_refused(tmp_path: Path, labels: Any, found: str) -> None:
    arrays = {"x_train": X} | ({} if labels is None else {"y_train": labels})
    with pytest.raises(
        InputError, match=rf"^y_train in '.*a\.npz': expected 4 labels, integers or text, found {found}$"
    ):
        NpzImages(write(tmp_path, **arrays))


SETS = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])


def test_images_may_be_of_several_classes(tmp_path: Path) -> None:
    source = NpzImages(write(tmp_path, x_train=X, y_train=SETS.astype(np.uint8), x_test=X[:1], y_test=SETS[:1]))
    assert source.classes == ["0", "1", "2"]
    np.testing.assert_array_equal(source.images("train").labels, SETS, strict=True)
    named = NpzImages(write(tmp_path, x_train=X, y_train=SETS, classes=np.array(["ant", "bee", "cat"])))
    assert named.classes == ["ant", "bee", "cat"]
    transposed = NpzImages(write(tmp_path, x_train=X[:3], y_train=SETS[:3].T))
    assert (
        transposed.images("train").content
        != NpzImages(write(tmp_path, x_train=X[:3], y_train=SETS[:3])).images("train").content
    )


@pytest.mark.parametrize("labels", [Y, Y % 2, np.array(["b", "a", "c", "b"])])
def test_a_column_is_one_label_an_image(tmp_path: Path, labels: np.ndarray) -> None:
    """As in MedMNIST's files: a column of labels, even of 0 and 1, is not a matrix of classes."""
    flat = NpzImages(write(tmp_path, x_train=X, y_train=labels))
    column = NpzImages(write(tmp_path, x_train=X, y_train=labels[:, None]))
    assert column.classes == flat.classes
    np.testing.assert_array_equal(column.images("train").labels, flat.images("train").labels, strict=True)
    assert column.images("train").content == flat.images("train").content


def test_labels_may_be_names(tmp_path: Path) -> None:
    names = np.array(["dog", "ant", "dog", "bee"])
    source = NpzImages(write(tmp_path, x_train=X, y_train=names, x_test=X[:1], y_test=np.array(["cat"])))
    assert source.classes == ["ant", "bee", "cat", "dog"]
    assert source.images("train").labels.tolist() == [3, 0, 3, 1]
    with pytest.raises(InputError, match=r"a\.npz' holds class names twice, in y_SPLIT and in classes; leave out one"):
        NpzImages(write(tmp_path, x_train=X, y_train=names, classes=names))
    with pytest.raises(InputError, match=r"between splits \(y_test int64 \(4,\), y_train <U3 \(4,\)\)"):
        NpzImages(write(tmp_path, x_train=X, y_train=names, x_test=X, y_test=Y))


def test_an_array_that_is_not_used_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path, x_train=X, y_train=Y, notes=np.array([{"by": "someone"}], dtype=object))
    assert NpzImages(path).images("train").labels.tolist() == Y.tolist()


@pytest.mark.parametrize("names", [np.array("ant"), np.array([["ant"]]), np.array([0.5, 1, 2])])
def test_names_of_another_form_are_refused(tmp_path: Path, names: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"^classes in '.*a\.npz' is .*; expected text \(classes,\)$"):
        NpzImages(write(tmp_path, x_train=X, y_train=Y, classes=names))


def test_splits_of_other_classes_are_refused(tmp_path: Path) -> None:
    for labels in (SETS[:, :2], Y):
        with pytest.raises(
            InputError, match=r"^labels in '.*a.npz' differ in shape or type between splits \(y_test .*, y_train"
        ):
            NpzImages(write(tmp_path, x_train=X, y_train=SETS, x_test=X, y_test=labels))
    with pytest.raises(InputError, match=r"^classes in '.*a.npz' has 4 names, but the labels need 3$"):
        NpzImages(write(tmp_path, x_train=X, y_train=SETS, classes=np.array(list("abcd"))))
    with pytest.raises(
        InputError, match=r"^y_train in '.*': expected \(n, classes\) of 0 and 1, found \(4, 3\) from 0 to 2$"
    ):
        NpzImages(write(tmp_path, x_train=X, y_train=SETS * 2))


@pytest.mark.parametrize("labels", [np.array([-2, 0, 1, 2]), np.array([0, 1, 2, 2**63], dtype=np.uint64)])
def test_labels_that_are_no_class_indices_are_refused(tmp_path: Path, labels: Any) -> None:
    with pytest.raises(InputError, match=r"y_train in '.*a\.npz'"):
        NpzImages(write(tmp_path, x_train=X, y_train=labels))


def test_class_names_that_are_too_few_are_not_replaced_silently(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"classes.*a\.npz"):
        NpzImages(write(tmp_path, x_train=X, y_train=Y, classes=np.array(["ant", "bee"])))


def test_a_file_without_images_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.npz' holds no arrays x_SPLIT; it has images, labels$"):
        NpzImages(write(tmp_path, images=X, labels=Y))
    with pytest.raises(InputError, match=r"a\.npz' holds no arrays x_SPLIT; it has nothing$"):
        NpzImages(write(tmp_path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"^no file at '.*none\.npz'; expected an \.npz with images there$"):
        NpzImages(str(tmp_path / "none.npz"))


def damaged(path: Path, kind: str) -> bytes:
    """Return the bytes of a file that never was an .npz, or of a damaged one."""
    np.savez_compressed(path / "whole.npz", x_train=X, y_train=Y)
    whole = bytearray((path / "whole.npz").read_bytes())
    if kind == "npy":
        np.save(path / "x.npy", X)
        return (path / "x.npy").read_bytes()
    return {"nothing": b"", "words": b"no zip file", "cut": bytes(whole[:-100])}.get(kind, bytes(whole))


@pytest.mark.parametrize("kind", ["nothing", "words", "cut", "npy"])
def test_what_is_no_npz_is_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "a.npz"
    file.write_bytes(damaged(tmp_path, kind))
    with pytest.raises(InputError, match=r"'.*a\.npz' is not a readable \.npz file: "):
        NpzImages(str(file))
    gc.collect()  # a file left open would warn here, in this test


def test_a_flipped_byte_is_refused_or_does_not_matter(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "whole.npz", x_train=X // 16, y_train=Y)
    whole = (tmp_path / "whole.npz").read_bytes()
    n_refused = 0
    for place in range(0, len(whole), 3):
        (tmp_path / "a.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            NpzImages(str(tmp_path / "a.npz"))
        except InputError:
            n_refused += 1
    assert n_refused > len(whole) / 3 / 2


def test_a_pointer_of_git_lfs_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(
        InputError, match=r"^'.*a.npz' is a Git LFS pointer in place of the file; fetch the file with git"
    ):
        NpzImages(str(tmp_path / "a.npz"))


def test_pickled_arrays_are_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.npz' is not a readable \.npz file: .*allow_pickle"):
        NpzImages(write(tmp_path, x_train=X, y_train=Y, classes=np.array(["a", None], dtype=object)))


def test_the_demo_is_a_part_of_fashion_mnist() -> None:
    source = open_dataset("demo")
    assert source.name == source.spec == "demo"
    assert len(source.classes) == 10
    assert sum(len(source.images(split).ids) for split in source.splits) == 7000
    assert source.load("train", 0).size == (28, 28)


def test_the_demo_takes_no_argument() -> None:
    with pytest.raises(InputError, match=r"^the data set 'demo' takes no argument, got 'x'$"):
        open_dataset("demo:x")
