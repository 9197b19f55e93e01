"""Dividing one split in two, against counts by hand."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tokenprobe.errors import InputError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.datasets import open_dataset
from tokenprobe.extract.datasets.npz import NpzImages
from tokenprobe.extract.divided import DividedSource
from tokenprobe.store import open_store

COUNTS = [20, 5, 2, 1]


@pytest.fixture
def source(tmp_path: Path) -> NpzImages:
    """One split of 28 images in four classes, each with its own grey value."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), COUNTS))
    np.savez(tmp_path / "a.npz", x_all=np.arange(28, dtype=np.uint8)[:, None, None].repeat(3, 1), y_all=labels)
    return NpzImages(str(tmp_path / "a.npz"))


@pytest.mark.parametrize(
    ("fraction", "n_test"), [(0.1, [2, 1, 1, 0]), (0.5, [10, 2, 1, 0]), (0.7, [14, 4, 1, 0]), (0.99, [19, 4, 1, 0])]
)
def test_each_class_gives_its_part_and_keeps_an_image(source: NpzImages, fraction: float, n_test: list[int]) -> None:
    divided = DividedSource(source, fraction, seed=0)
    test, train = (Counter(divided.images(split).labels.tolist()) for split in divided.splits)
    assert divided.splits == ["test", "train"]
    assert [test[label] for label in range(4)] == n_test
    assert [test[label] + train[label] for label in range(4)] == COUNTS


def test_every_image_is_in_one_part_with_its_label_and_pixels(source: NpzImages) -> None:
    divided, whole = DividedSource(source, 0.3, seed=0), source.images("all")
    seen: list[str] = []
    for split in divided.splits:
        images = divided.images(split)
        for index, key in enumerate(images.ids):
            at = whole.ids.index(key)
            assert images.labels[index] == whole.labels[at]
            assert np.asarray(divided.load(split, index))[0, 0] == at
        seen += images.ids
    assert sorted(seen) == sorted(whole.ids)
    assert (divided.name, divided.spec, divided.classes) == (source.name, source.spec, source.classes)


def test_the_parts_and_their_content_are_functions_of_seed_and_fraction(source: NpzImages) -> None:
    chosen = [DividedSource(source, fraction, seed) for fraction, seed in ((0.3, 0), (0.3, 0), (0.3, 1), (0.4, 0))]
    tests = [divided.images("test") for divided in chosen]
    assert tests[0].ids == tests[1].ids != tests[2].ids
    assert set(tests[0].ids) < set(tests[3].ids), "a larger part holds the smaller one"
    contents = [divided.images(split).content for divided in chosen for split in divided.splits]
    assert contents[:2] == contents[2:4]
    assert len(set(contents)) == 6


def test_data_with_splits_of_their_own_are_not_divided(image_folder: Path) -> None:
    message = (
        r"^split_fraction 0.2 needs data with one split, but 'folder:.*' has the splits test, train; leave out "
        "--split-fraction$"
    )
    with pytest.raises(InputError, match=message):
        DividedSource(open_dataset(f"folder:{image_folder}"), 0.2, seed=0)


def test_class_folders_alone_give_a_store_with_two_splits(
    tiny_config: Callable[..., ExtractConfig], image_folder: Path
) -> None:
    config = tiny_config(data=f"folder:{image_folder}/train", split_fraction=0.2, layers="0", views=2)
    store = open_store(extract(config))
    assert {split: len(store[split]) for split in store.splits} == {"train": 48, "test": 12}
    assert not set(store["train"].ids) & set(store["test"].ids)
    assert Counter(store["test"].labels.tolist()) == {0: 4, 1: 4, 2: 4}
    assert (store["train"].info.views, store["test"].info.views) == (2, 1)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_fraction_out_of_range_is_refused(tiny_config: Callable[..., ExtractConfig], fraction: float) -> None:
    with pytest.raises(InputError, match=rf"^split_fraction {fraction}: expected a number between 0 and 1$"):
        extract(tiny_config(split_fraction=fraction))
