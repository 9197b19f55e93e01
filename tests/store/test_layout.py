"""Names, shapes, and the number of images per block."""

from itertools import product
from math import ceil

import pytest

from tokenprobe.errors import InputError
from tokenprobe.store import journal, lock, zarr_store
from tokenprobe.store.layout import (
    LayerShape,
    array_name,
    block_rows,
    check_split_name,
    layer_index,
    layer_name,
    parse_layers,
)

STORED = [0, 3, 7, 8, 11]
CASES = list(
    product(
        [*range(1, 140), 511, 512, 513, 1000, 50_000, 1_281_167],
        [1, 7_680, 301_056, 2**27 + 1],
        [1, 2**16, 2**20, 2**27],
    )
)


def test_a_block_is_within_the_size_asked_unless_one_image_is_larger() -> None:
    for n_images, image_bytes, block_bytes in CASES:
        rows = block_rows(n_images, image_bytes, block_bytes)
        assert rows == 1 or 1 < rows <= block_bytes / image_bytes, (n_images, image_bytes, block_bytes)


def test_a_split_has_eight_blocks_or_one_for_each_image() -> None:
    for n_images, image_bytes, block_bytes in CASES:
        n_blocks = ceil(n_images / block_rows(n_images, image_bytes, block_bytes))
        assert n_blocks >= min(8, n_images), (n_images, image_bytes, block_bytes)


def test_blocks_of_64_images_and_more_hold_a_multiple_of_64() -> None:
    large = [rows for case in CASES if (rows := block_rows(*case)) >= 64]
    assert len(large) > 20
    assert {rows % 64 for rows in large} == {0}


@pytest.mark.parametrize(
    ("n_images", "image_bytes", "block_bytes", "rows"),
    [
        (1_281_167, 196 * 768 * 2, 128 * 2**20, 384),  # ImageNet, ViT-B/16: 445 fit, down to a multiple of 64
        (1_281_167, 256 * 1024 * 4, 32 * 2**20, 32),  # 32 fit: fewer than 64, kept as they are
        (8_000, 1_000, 2**30, 960),  # an eighth of the split: 1000, down to a multiple of 64
        (80, 1_000, 2**30, 10),  # an eighth of a small split
        (5, 1_000, 2**30, 1),  # fewer images than blocks wanted
    ],
)
def test_block_rows_of_known_cases(n_images: int, image_bytes: int, block_bytes: int, rows: int) -> None:
    assert block_rows(n_images, image_bytes, block_bytes) == rows


def test_layer_names_are_padded_to_two_digits_and_read_back() -> None:
    assert [layer_name(layer) for layer in (0, 5, 11, 123)] == ["layer_00", "layer_05", "layer_11", "layer_123"]
    assert [layer_index(layer_name(layer)) for layer in (0, 5, 11, 123)] == [0, 5, 11, 123]


def test_an_array_is_named_by_split_layer_and_kind() -> None:
    assert array_name("train", layer_name(5), "patch") == "train/layer_05/patch"


def test_row_shapes_of_each_kind() -> None:
    shape = LayerShape(grid=(14, 7), dim=768, n_prefix=5, embedding=512)
    assert shape.n_patches == 98
    kinds = ("patch", "prefix", "mean", "embedding", "patch_scale", "prefix_scale")
    assert {kind: shape.row_shape(kind) for kind in kinds} == {
        "patch": (98, 768),
        "prefix": (5, 768),
        "mean": (768,),
        "embedding": (512,),
        "patch_scale": (98,),
        "prefix_scale": (5,),
    }


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("all", STORED),
        ("last4", [3, 7, 8, 11]),
        ("last1", [11]),
        ("8", [8]),
        ("11,0", [0, 11]),
        ("-1,11,-12", [0, 11]),
        ("-5", [7]),
    ],
)
def test_layers_are_read(spec: str, expected: list[int]) -> None:
    assert parse_layers(spec, STORED, depth=12) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("first", "layers 'first': expected all, lastN, or indices such as 0,5,-1"),
        ("", "layers '': expected all"),
        ("1,", "layers '1,': expected all"),
        ("1-3", "layers '1-3': expected all"),
        ("1.5", "layers '1.5': expected all"),
        ("last", "layers 'last': expected all"),
        ("lastX", "layers 'lastX': expected all"),
        ("1", "unknown layer of the store '1'; known: 11, 0, 3, 7, 8"),
        ("-2", "unknown layer of the store '-2'"),
        ("12", "unknown layer of the store '12'"),
        ("-13", "unknown layer of the store '-13'"),
        ("last0", "layers 'last0': the store has 5 layers"),
        ("last9", "layers 'last9': the store has 5 layers"),
        ("last²", "layers 'last²': expected all"),
    ],
)
def test_bad_layers_are_refused(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_layers(spec, STORED, depth=12)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("6", "^unknown layer of the backbone '6'; known: 0, 1, 2, 3, 4, 5$"),
        ("0,-7", "^unknown layer of the backbone '-7'; "),
        ("last7", "^layers 'last7': the backbone has 6 layers$"),
    ],
)
def test_layers_that_a_backbone_lacks_are_refused_as_its_own(spec: str, message: str) -> None:
    assert parse_layers("last6", range(6), 6, "backbone") == parse_layers("all", range(6), 6) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(InputError, match=message):
        parse_layers(spec, range(6), 6, "backbone")


@pytest.mark.parametrize("name", ["train", "val", "test-2", "train_100%", "Übung", "訓練", "a b", "x..y", "t" * 100])
def test_plain_names_of_splits_are_fine(name: str) -> None:
    check_split_name(name)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "'' is empty"),
        (".", "'.' begins with '.' or '__'"),
        ("..", "'..' begins with"),
        (".lock", "'.lock' begins with"),
        ("__proto", "'__proto' begins with"),  # reserved for extensions of Zarr
        ("../../esc", "'../../esc' holds a path separator"),
        ("/abs", "'/abs' holds a path separator"),
        ("a/b", "'a/b' holds a path separator"),
        ("a\\b", "'a\\\\\\\\b' holds a path separator"),
        ("a\nb", "'a\\\\nb' holds control characters"),
        ("a\x00b", "'a\\\\x00b' holds control characters"),
        ("\x1b[31mred", "'\\\\x1b\\[31mred' holds control characters"),
        ("\udcff", "'\\\\udcff' holds control characters"),
        ("train ", "'train ' holds control characters, or blanks at an end"),
        ("zarr.json", "'zarr.json' is reserved for files of the store"),
        ("journal.jsonl", "'journal.jsonl' is reserved"),
        ("journal.d", "'journal.d' is reserved"),
        ("train.tmp", "'train.tmp' is reserved"),
        ("t" * 101, "'t{99} is too long"),
        ("é" * 51, "'é{51}' is too long"),
        (5, "5 is not text"),
        (None, "None is not text"),
        (["train"], r"\['train'\] is not text"),
    ],
)
def test_names_that_no_split_can_have_are_refused(name: object, fault: str) -> None:
    with pytest.raises(InputError, match=f"^split name {fault}.*; give the split a plain name, such as train, of at m"):
        check_split_name(name)


@pytest.mark.parametrize("name", [journal.NAME, lock.NAME, zarr_store.ROOT])
def test_no_split_has_the_name_of_a_file_of_the_store(name: str) -> None:
    with pytest.raises(InputError, match="split name"):
        check_split_name(name)
