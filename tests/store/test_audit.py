"""The audit of a dtype agrees with an extraction in that dtype, by plain formulas in float64."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from math import inf, nan, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenprobe.errors import InputError, StoreError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.store import BlockKey, Store, open_store
from tokenprobe.store import audit as package
from tokenprobe.store.audit import Cost, audit, token_errors
from tokenprobe.store.order import permutation
from tokenprobe.testing.store_kit import Contents, make_contents, write, write_some

LAYERS = (0, 5)
DTYPES = ("float16", "bfloat16", "int8")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """The demo's backbone on Fashion-MNIST images, in every dtype."""
    folder = tmp_path_factory.mktemp("stores")
    weights = Path(str(files("tokenprobe") / "assets" / "fashion_mae_vit128d6p4.safetensors"))
    architecture = {"img_size": 28, "patch_size": 4, "embed_dim": 128, "depth": 6, "num_heads": 4}
    made = {}
    dtypes: list[Any] = ["float32", *DTYPES]
    for dtype in dtypes:
        config = ExtractConfig(
            model="timm:VisionTransformer", model_arg=architecture, checkpoint=weights, data="demo", split=["train"],
            out=folder / f"{dtype}.zarr", dtype=dtype, limit=40, layers="0,5", workers=0, batch_size=8,
        )  # fmt: skip
        made[dtype] = open_store(extract(config))
    return made


@pytest.mark.parametrize("n_images", [40, 7])
def test_real_tokens_lose_what_the_audit_says(stores: dict[str, Store], n_images: int) -> None:
    rows = sorted(permutation(40, 3)[:n_images])
    found = audit(stores["float32"], n_images=n_images, seed=3)
    assert (found.split, found.n_images) == ("train", n_images)
    assert [(cost.layer, cost.dtype) for cost in found.costs] == [(n, dtype) for n in LAYERS for dtype in DTYPES]
    for cost in found.costs:
        tokens, returned = (stores[name]["train"].tokens(cost.layer, rows) for name in ("float32", cost.dtype))
        check(cost, tokens, returned, rtol=1e-7)
        assert cost.size == layer_bytes(stores[cost.dtype], cost.layer) / layer_bytes(stores["float32"], cost.layer)


@pytest.mark.parametrize(("stored", "others"), [("float16", ["bfloat16", "int8"]), ("bfloat16", ["float16", "int8"])])
def test_only_dtypes_that_would_save_or_change_something_are_compared(
    stores: dict[str, Store], stored: str, others: list[str]
) -> None:
    costs = audit(stores[stored]).costs
    assert [cost.dtype for cost in costs] == others * 2
    assert [cost.size for cost in costs if cost.dtype != "int8"] == [1.0, 1.0]
    for cost in costs:
        assert 0 <= cost.relative.median < 0.01 and cost.distance.worst < 1e-3


def check(cost: Cost, tokens: np.ndarray, returned: np.ndarray, rtol: float) -> None:
    relative, distance = naive_errors(tokens, returned)
    np.testing.assert_allclose([cost.relative.median, cost.relative.worst], [np.median(relative), relative.max()], rtol)
    # A cosine distance is a small difference from 1, so float64 gives it an absolute error.
    np.testing.assert_allclose(
        [cost.distance.median, cost.distance.worst], [np.median(distance), distance.max()], rtol, atol=1e-15
    )
    assert cost.largest == np.abs(tokens).max()
    assert not cost.overflows


def naive_errors(tokens: np.ndarray, returned: np.ndarray) -> np.ndarray:
    """Compute both errors one token at a time, in Python's floats."""
    errors = []
    width = tokens.shape[-1]
    for x, y in zip(tokens.reshape(-1, width).tolist(), returned.reshape(-1, width).tolist(), strict=True):
        norm, other = sqrt(sum(a * a for a in x)), sqrt(sum(b * b for b in y))
        error = sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))
        errors.append((error / norm, 1 - sum(a * b for a, b in zip(x, y, strict=True)) / (norm * other)))
    return np.array(errors).T


def layer_bytes(store: Store, layer: int) -> int:
    chunks = Path(store.path).glob(f"train/layer_{layer:02d}/*/c.*.*")
    return sum(file.stat().st_size for file in chunks if not file.parent.name.endswith("channels"))


def test_the_channels_of_int8_are_those_of_the_first_1024_images(tmp_path: Path) -> None:
    """Includes outlier channels; later images have another spread."""
    contents = make_contents("float32", counts={"train": 1100, "test": 3}, block_rows=128)
    patch = contents.stored["train/layer_03/patch"]
    patch[:, 1024:] *= 3
    store = open_store(write(tmp_path / "a.zarr", contents, batch=128))
    found = audit(store, n_images=1100)
    cost = next(cost for cost in found.costs if (cost.layer, cost.dtype) == (3, "int8"))
    # In float64 a value between two levels may round to the other one, which changes the error of one token.
    check(cost, patch[0], naive_int8(patch[0].astype(np.float64)), rtol=1e-3)


def naive_int8(tokens: np.ndarray) -> np.ndarray:
    first = tokens[:1024].reshape(-1, tokens.shape[-1])
    mean, deviation = first.mean(0), first.std(0)
    z = (tokens - mean) / deviation
    scale = (np.abs(z).max(-1, keepdims=True) / 127).astype(np.float16).astype(np.float64)
    return (np.round(z / scale) * scale * deviation + mean).astype(np.float16)


def test_memory_is_bounded_by_pieces(stores: dict[str, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = audit(stores["float32"])
    monkeypatch.setattr(package, "PIECE_VALUES", 3 * 49 * 128)
    for cost, other in zip(audit(stores["float32"]).costs, whole.costs, strict=True):
        # Sums over other pieces round differently, which changes the statistics of int8.
        for one, two in ((cost.relative, other.relative), (cost.distance, other.distance)):
            np.testing.assert_allclose([one.median, one.worst], [two.median, two.worst], rtol=1e-6, atol=1e-15)


def test_a_value_that_overflows_is_told(tmp_path: Path) -> None:
    contents = make_contents("float32")
    contents.stored["train/layer_03/patch"][0, 4, 2, 1] = -7e4
    found = audit(open_store(write(tmp_path / "a.zarr", contents)))
    costs = {(cost.layer, cost.dtype): cost for cost in found.costs}
    assert {key for key, cost in costs.items() if cost.overflows} == {(3, "float16"), (3, "int8")}
    assert costs[3, "float16"].largest == 7e4
    assert costs[3, "float16"].relative.worst == costs[3, "float16"].distance.worst == inf
    assert costs[3, "bfloat16"].relative.worst < 0.01


@pytest.mark.parametrize("row", [0, 10], ids=["the first piece", "the last piece"])
def test_an_overflow_in_any_piece_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: int) -> None:
    contents = make_contents("float32")
    contents.stored["train/layer_03/patch"][0, row, 2, 1] = 7e4
    monkeypatch.setattr(package, "PIECE_VALUES", 3 * 6 * 5)
    costs = audit(open_store(write(tmp_path / "a.zarr", contents))).costs
    assert {(cost.layer, cost.dtype) for cost in costs if cost.overflows} == {(3, "float16"), (3, "int8")}
    assert {cost.largest for cost in costs if cost.layer == 3} == {7e4}


def test_a_token_of_zeros_is_no_overflow(tmp_path: Path) -> None:
    contents = make_contents("float32")
    contents.stored["train/layer_03/patch"][0, 4, 2] = 0
    found = audit(open_store(write(tmp_path / "a.zarr", contents)))
    costs = {cost.dtype: cost for cost in found.costs if cost.layer == 3}
    assert not any(cost.overflows for cost in costs.values())
    assert costs["float16"].relative.worst < 1e-3
    assert costs["int8"].relative.worst == inf


@pytest.mark.parametrize(
    ("token", "returned", "errors"),
    [
        ([0, 0], [0, 0], (0, 0)),
        ([0, 0], [0, 1], (inf, inf)),
        ([3, 4], [3, 4], (0, 0)),
        ([3, 4], [0, 0], (1, 1)),
        ([3, 4], [-3, -4], (2, 2)),
        ([3, 4], [-4, 3], (sqrt(2), 1)),
        ([3, 4], [inf, 4], (inf, inf)),
        ([3, 4], [nan, 4], (inf, inf)),
    ],
)
def test_errors_of_one_token(token: Sequence[float], returned: Sequence[float], errors: tuple[float, float]) -> None:
    found = token_errors(np.array([token], np.float32), np.array([returned], np.float32))
    np.testing.assert_allclose(found[:, 0], errors, rtol=1e-15)


def test_an_int8_store_has_nothing_to_compare(stores: dict[str, Store]) -> None:
    with pytest.raises(InputError, match=r"int8\.zarr' is int8, and no dtype is smaller; audit a store of float32"):
        audit(stores["int8"])


def test_tokens_must_be_there(tiny_config: Callable[..., ExtractConfig]) -> None:
    store = open_store(extract(tiny_config(tokens=["prefix"])))
    with pytest.raises(InputError, match=r"split 'train' of .* has no patch tokens to audit; extract some"):
        audit(store)


def test_layers_that_are_not_finished_are_left_out(tmp_path: Path) -> None:
    contents = make_contents()
    part = contents.part({"train": {"layer_00": ["patch"]}})
    write(tmp_path / "a.h5", part)
    store = open_store(write_some(tmp_path / "a.h5", all_layers(contents), [BlockKey("train", 0, 0)]))
    assert {cost.layer for cost in audit(store).costs} == {0}


def all_layers(contents: Contents, **info: Any) -> Contents:
    split = contents.manifest.splits["train"]
    layers = {name: ["patch"] for name in split.layers}
    return replace(
        contents, manifest=replace(contents.manifest, splits={"train": replace(split, layers=layers, **info)})
    )


def test_a_layer_must_be_finished(tmp_path: Path) -> None:
    store = open_store(write_some(tmp_path / "a.zarr", make_contents(), [BlockKey("train", 0, 0)]))
    with pytest.raises(
        StoreError, match=r"no layer of split 'train' of .* is finished; run the same probe extract again"
    ):
        audit(store)
