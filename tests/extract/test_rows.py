"""Assignment of images to rows, against brute force."""

from collections import Counter

import numpy as np
import pytest

from tokenprobe.extract.datasets import ImageList
from tokenprobe.extract.rows import batches_of, choose_rows, even_batch_size, random_keys


def image_list(*n_of_class: int) -> ImageList:
    labels = np.repeat(np.arange(len(n_of_class)), n_of_class).astype(np.int64)
    return ImageList([f"{label}/{index}" for index, label in enumerate(labels)], labels, "content")


def fair_shares(n_of_class: list[int], limit: int) -> list[int]:
    """Draw one image at a time from the class with the fewest drawn images that is not used up."""
    dealt = [0] * len(n_of_class)
    for _ in range(min(limit, sum(n_of_class))):
        open_classes = [c for c, n in enumerate(n_of_class) if dealt[c] < n]
        dealt[min(open_classes, key=lambda c: dealt[c])] += 1
    return sorted(dealt)


def test_dataset_order_keeps_the_order_of_the_source() -> None:
    images = image_list(3, 2)
    rows = choose_rows(images, set(), None, shuffled=False, seed=7)
    assert rows.index.tolist() == [0, 1, 2, 3, 4]
    assert rows.ids == list(images.ids)
    assert rows.labels.tolist() == [0, 0, 0, 1, 1]


def test_shuffled_rows_are_a_permutation_that_keeps_image_label_and_id_together() -> None:
    images = image_list(30, 30)
    rows = choose_rows(images, set(), None, shuffled=True, seed=0)
    assert sorted(rows.index.tolist()) == list(range(60))
    assert rows.index.tolist() != list(range(60))
    assert rows.ids == [images.ids[i] for i in rows.index]
    assert rows.labels.tolist() == [images.labels[i] for i in rows.index]


def test_the_order_is_a_function_of_the_seed() -> None:
    orders = [choose_rows(image_list(40), set(), None, shuffled=True, seed=seed).ids for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_shuffling_mixes_the_classes_of_a_block() -> None:
    """The first eighth of sorted rows would hold two of ten classes; a fair draw of 125 misses none."""
    rows = choose_rows(image_list(*[100] * 10), set(), None, shuffled=True, seed=0)
    assert set(rows.labels[:125].tolist()) == set(range(10))


@pytest.mark.parametrize("n_of_class", [[20, 20, 20], [1, 5, 40], [7]])
@pytest.mark.parametrize("limit", [1, 4, 7, 100])
def test_a_limit_takes_as_many_of_each_class_as_there_are(n_of_class: list[int], limit: int) -> None:
    rows = choose_rows(image_list(*n_of_class), set(), limit, shuffled=True, seed=3)
    counts = Counter(rows.labels.tolist())
    assert sorted(counts.get(label, 0) for label in range(len(n_of_class))) == fair_shares(n_of_class, limit)
    assert len(set(rows.ids)) == len(rows)


def test_a_limit_draws_by_the_seed() -> None:
    draws = [set(choose_rows(image_list(50, 50), set(), 10, shuffled=False, seed=seed).ids) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("limit", [1, 8, 19, 20, 25])
def test_a_limit_keeps_the_same_classes_in_splits_of_other_images(limit: int) -> None:
    """A limit below the number of classes keeps the same 20 classes in both splits, despite other ids and counts."""
    train, test = image_list(*range(1, 21)), image_list(*[3] * 20)
    test = ImageList([f"test/{key}" for key in test.ids], test.labels, "content")
    drawn = [set(choose_rows(images, set(), limit, shuffled=True, seed=0).labels.tolist()) for images in (train, test)]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == min(limit, 20)


def test_which_classes_a_small_limit_keeps_is_drawn_by_the_seed() -> None:
    images = image_list(*[2] * 20)
    drawn = [set(choose_rows(images, set(), 5, shuffled=True, seed=seed).labels.tolist()) for seed in range(4)]
    assert len(set(map(frozenset, drawn))) == 4


def test_a_limit_of_all_classes_takes_the_images_that_it_took_before_classes_were_drawn() -> None:
    """7 images from 3 classes: two of each, and the lowest key among the third images of the classes."""
    images = image_list(4, 4, 4)
    keys = random_keys(images.ids, 3)
    of_class = [sorted(range(4 * label, 4 * label + 4), key=lambda row: keys[row]) for label in range(3)]
    expected = {row for rows in of_class for row in rows[:2]} | {min((rows[2] for rows in of_class), key=keys.item)}
    assert set(choose_rows(images, set(), 7, shuffled=False, seed=3).index.tolist()) == expected


@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize(("earlier", "limit"), [([4], 9), ([4, 9], None), ([1, 2, 3], 50), ([13], 40)])
def test_rows_of_a_smaller_limit_stay_and_those_of_a_larger_one_follow(
    earlier: list[int], limit: int | None, shuffled: bool
) -> None:
    """Each part holds the images that its limit adds to those before, in the order of all images."""
    images = image_list(9, 1, 20, 5)
    rows = choose_rows(images, set(), limit, shuffled=shuffled, seed=2, earlier=earlier)
    order = choose_rows(images, set(), None, shuffled=shuffled, seed=2).ids
    expected: list[str] = []
    for each in (*earlier, limit):
        taken = set(choose_rows(images, set(), each, shuffled=shuffled, seed=2).ids)
        assert taken >= set(expected)
        expected += [key for key in order if key in taken - set(expected)]
    assert rows.ids == expected
    assert rows.labels.tolist() == [int(images.labels[images.ids.index(key)]) for key in rows.ids]


def test_an_image_that_a_larger_limit_leaves_out_moves_no_row_of_a_smaller_one() -> None:
    images = image_list(9, 9, 9)
    first = choose_rows(images, set(), 10, shuffled=True, seed=0).ids
    grown = choose_rows(images, set(), 20, shuffled=True, seed=0, earlier=[10]).ids
    fewer = choose_rows(images, {grown[12]}, 20, shuffled=True, seed=0, earlier=[10]).ids
    assert fewer[:10] == grown[:10] == first and grown[12] not in fewer and len(fewer) == 20


def test_the_row_order_does_not_change_which_images_a_limit_takes() -> None:
    one, other = (choose_rows(image_list(9, 9), set(), 8, shuffled=shuffled, seed=5) for shuffled in (True, False))
    assert set(one.ids) == set(other.ids)
    assert one.ids != other.ids
    assert other.index.tolist() == sorted(other.index.tolist())


def test_skipped_images_are_left_out_before_the_limit() -> None:
    images = image_list(3, 3)
    rows = choose_rows(images, {"0/0", "0/1"}, 4, shuffled=True, seed=0)
    assert not {"0/0", "0/1"} & set(rows.ids)
    assert Counter(rows.labels.tolist()) == {0: 1, 1: 3}
    assert rows.ids == [images.ids[i] for i in rows.index]


def test_a_limit_of_images_of_several_classes_is_seeded_alone() -> None:
    sets = np.random.default_rng(0).integers(0, 2, (40, 3))
    images = ImageList([f"a/{index}" for index in range(40)], sets, "content")
    draws = [choose_rows(images, set(), 10, shuffled=True, seed=seed) for seed in (0, 0, 1)]
    assert draws[0].ids == draws[1].ids != draws[2].ids
    assert draws[0].labels.shape == (10, 3)
    np.testing.assert_array_equal(draws[0].labels, sets[draws[0].index])


@pytest.mark.parametrize("n_rows", [1, 7, 8, 60])
@pytest.mark.parametrize("block_rows", [1, 8, 64])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 100])
def test_batches_cover_every_row_once_and_start_at_block_boundaries(
    n_rows: int, block_rows: int, batch_size: int
) -> None:
    blocks = batches_of(n_rows, block_rows, batch_size)
    for block, batches in enumerate(blocks):
        rows = [row for batch in batches for row in batch]
        assert rows == list(range(n_rows))[block * block_rows : (block + 1) * block_rows]
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert 1 <= len(batches[-1]) <= batch_size
    assert sum(len(batch) for batches in blocks for batch in batches) == n_rows


@pytest.mark.parametrize(
    ("block_rows", "batch_size", "even"),
    [(384, 64, 64), (384, 256, 192), (384, 512, 384), (50, 64, 50), (50, 20, 17), (1, 64, 1), (7, 1, 1)],
)
def test_a_block_is_cut_evenly(block_rows: int, batch_size: int, even: int) -> None:
    assert even_batch_size(block_rows, batch_size) == even
