"""The plan of a fit: what it decides before its first step."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from tokenprobe.errors import InputError, MissingError, StoreError
from tokenprobe.probe import FitConfig, fit
from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.store import Store

from .kit import MakeStore, plan_for, rewrite, write_made


def test_select_holds_out_a_tenth_and_sweeps_the_published_grid(small_store: Store) -> None:
    made = plan_for(small_store, seeds=3)
    (regime,) = made.grid.regimes
    assert (len(regime.train_rows), len(regime.val_rows), len(made.data.test)) == (54, 6, 21)
    assert sorted([*regime.train_rows, *regime.val_rows]) == list(range(60))
    assert list(made.grid.lrs) == [0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
    assert (regime.batch_size, regime.warmup_epochs, regime.epochs) == (32, 10, 90)
    assert (regime.shots, regime.seeds, regime.scored) == ("full", (0, 1, 2), tuple(range(1, 91)))
    assert made.grid.layers == [LayerSet((0,)), LayerSet((2,))]
    assert (made.precision, made.data.norm) == ("float32", None)


def test_paper_trains_on_everything_at_the_published_rate(small_store: Store) -> None:
    made = plan_for(small_store, protocol="paper", epochs=45)
    (regime,) = made.grid.regimes
    assert list(regime.train_rows) == list(range(60)) and len(regime.val_rows) == 0
    assert list(made.grid.lrs) == [0.1]
    assert regime.warmup_epochs == 5


def test_what_is_given_is_kept(small_store: Store) -> None:
    made = plan_for(small_store, lr=[0.7], batch_size=5, warmup_epochs=0, layers="2", amp="bfloat16", val=0.5)
    (regime,) = made.grid.regimes
    assert (made.grid.lrs, regime.batch_size, regime.warmup_epochs, made.grid.layers) == ([0.7], 5, 0, [LayerSet((2,))])
    assert made.precision == "bfloat16" and len(regime.val_rows) == 30
    assert plan_for(small_store, amp="off").precision == "float32"


def test_balanced_classes_weigh_with_the_inverse_of_their_images(small_store: Store) -> None:
    """As scikit-learn's `compute_class_weight("balanced")` has it; a subset has weights of its own."""
    made = plan_for(small_store, class_weights="balanced", fraction=[0.2], shots=["full"], clip_grad=5.0, val=0.3)
    labels = small_store["train"].labels
    for group in (made.grid.trained_groups(made.grid.layers[0], regime)[0] for regime in made.grid.regimes):
        of_regime = labels[group.regime.train_rows]
        expected = compute_class_weight("balanced", classes=np.arange(3), y=of_regime)
        setup = made.group_setup(group, torch.device("cpu"))
        assert setup.class_weights == pytest.approx(tuple(expected)) and setup.clip_grad == 5.0
    plain = plan_for(small_store)
    group = plain.grid.trained_groups(plain.grid.layers[0], plain.grid.regimes[0])[0]
    assert plain.group_setup(group, torch.device("cpu")).class_weights is None


def test_the_seed_decides_what_is_held_out(small_store: Store) -> None:
    rows = [tuple(plan_for(small_store, seed=seed).grid.regimes[0].val_rows) for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


def test_a_subset_is_a_regime_for_every_seed(small_store: Store) -> None:
    made = plan_for(small_store, shots=["full", "4", "1"], fraction=[0.5], seeds=2, epochs=20, batch_size=8)
    full, *subsets = made.grid.regimes
    named = [(regime.shots, regime.seeds) for regime in subsets]
    assert named == [(shots, (seed,)) for shots in ("4", "1", "0.5") for seed in (0, 1)]
    assert full.seeds == (0, 1) and made.grid.shots == ["full", "4", "1", "0.5"]
    labels = small_store["train"].labels
    for regime, (shots, _) in zip(subsets, named, strict=True):
        counts = np.bincount(labels[regime.train_rows], minlength=3).tolist()
        assert counts == {"4": [4] * 3, "1": [1] * 3, "0.5": [9] * 3}[shots]
        assert set(regime.train_rows) <= set(full.train_rows) and set(regime.val_rows) <= set(full.val_rows)
        assert np.bincount(labels[regime.val_rows]).tolist() == [min(2, counts[0])] * 3
        assert regime.batch_size == min(8, len(regime.train_rows)) and regime.epochs == 20
    assert not np.array_equal(subsets[0].train_rows, subsets[1].train_rows)
    assert np.array_equal(subsets[2].val_rows, subsets[3].val_rows)  # the run's seed draws them
    assert len(plan_for(small_store, fraction=[0.5]).grid.regimes) == 1  # a fraction alone


def test_a_subset_takes_as_many_steps_as_asked_for(small_store: Store) -> None:
    made = plan_for(small_store, shots=["1"], epochs=9, min_steps=100, warmup_epochs=2)
    (regime,) = made.grid.regimes
    assert (regime.batch_size, regime.n_steps, regime.epochs, regime.warmup_epochs) == (3, 1, 9 * 12, 24)
    assert regime.scored == tuple(range(12, 109, 12))
    (line,) = made.about()
    assert line.endswith("; batch size 3, warm-up 2 of 9 epochs, each 12 times over the images"), "epochs as asked for"


def test_data_may_bring_its_own_validation(make_store: MakeStore) -> None:
    made = plan_for(make_store(["train", "val", "test"]), val_split="val", shots=["full", "1"])
    full, one = made.grid.regimes
    assert list(full.train_rows) == list(range(60)) and list(full.val_rows) == list(range(12))
    assert (made.data.val.name, made.data.test.name, len(one.val_rows)) == ("val", "test", 3)


def test_the_test_split_may_lie_in_another_store(
    write_store: Callable[..., Store], make_store: MakeStore, tmp_path: Path
) -> None:
    train = make_store(["train"])
    other = write_made(write_store, tmp_path / "other.zarr", ["train", "test"])
    made = plan_for(train, test_store=other.path)
    assert made.data.test.store.path == other.path and made.data.test.name == "test"
    turned = other.manifest.recipe.transform | {"upright": True}
    rewrite(other, recipe=replace(other.manifest.recipe, transform=turned))
    assert plan_for(train, test_store=other.path).data.test.name == "test", "each source turns photos in its own way"
    rewrite(other, recipe=replace(other.manifest.recipe, weights="1" * 64))
    with pytest.raises(
        InputError, match=r"test_store '.*other.zarr' does not hold the features of '.*s.zarr' \(weights: "
    ):
        plan_for(train, test_store=other.path)


def test_joined_layers_are_as_wide_as_all_of_them(small_store: Store) -> None:
    made = plan_for(small_store, layers="0,0+2")
    single, joined = made.grid.layers
    assert (single, joined) == (LayerSet((0,)), LayerSet((0, 2)))
    assert (made.data.shape(joined).dim, made.data.shape(joined).grid) == (16, (2, 2))
    (regime,) = made.grid.regimes
    assert made.grid.trained_groups(joined, regime)[0].cells[0].layer == "0+2"


def test_stacked_layers_have_the_tokens_of_all_of_them(small_store: Store) -> None:
    made = plan_for(small_store, layers="stack:0+2", heads=["ep:queries=2"])
    (stacked,) = made.grid.layers
    assert stacked == LayerSet((0, 2), stacked=True)
    shape = made.data.shape(stacked)
    assert (shape.dim, shape.grid, shape.n_layers, shape.row_shape("patch")) == (8, (2, 2), 2, (8, 8))
    assert made.data.row_bytes(stacked, ["patch", "mean"], "train") == 2 * (4 * 8 * 2 + 8 * 4)


@pytest.mark.parametrize(
    ("splits", "changes", "expected"),
    [
        (["train", "validation", "val", "test"], {}, "test"),
        (["train", "validation", "val"], {}, "val"),
        (["train", "validation"], {}, "validation"),
        (["train", "val", "test"], {"test_split": "val"}, "val"),
        (["test", "val"], {"train_split": "test"}, "val"),
    ],
)
def test_the_test_split_is_the_first_of_test_val_validation(
    make_store: MakeStore, splits: list[str], changes: dict[str, str], expected: str
) -> None:
    assert plan_for(make_store(splits), **changes).data.test.name == expected


def test_planning_draws_no_weights(small_store: Store) -> None:
    before = torch.get_rng_state()
    plan_for(small_store, heads=["siglip", "ep:queries=2", "dolg"])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_cell_for_every_point_of_the_grid(small_store: Store) -> None:
    made = plan_for(small_store, heads=["ep:queries=2|4", "linear"], lr=[0.1, 1], weight_decay=[0, 0.1], seeds=3)
    groups = made.grid.trained_groups(LayerSet((2,)), made.grid.regimes[0])
    assert [len(group.cells) for group in groups] == [12, 12, 12]
    assert {cell.layer for group in groups for cell in group.cells} == {"2"}


def test_a_head_is_built_for_the_width_of_what_it_reads(make_store: MakeStore) -> None:
    made = plan_for(
        make_store(embedding=True), layers="-1", heads=["linear:pool=embedding", "linear", "ridge:pool=embedding"]
    )
    groups = [
        *made.grid.trained_groups(LayerSet((2,)), made.grid.regimes[0]),
        *made.grid.solved_groups(LayerSet((2,)), made.grid.regimes[0]),
    ]
    assert [made.input_shape(group.cells[0]).dim for group in groups] == [3, 8, 3]


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    config = FitConfig(out=tmp_path / "run")
    with pytest.raises(MissingError, match=r"no store at '.*/nothing'; make one with probe extract"):
        fit(tmp_path / "nothing", config)
    with pytest.raises(StoreError, match="is not a token store: it has no manifest; make one with probe extract"):
        fit(tmp_path, config)
    assert not (tmp_path / "run").exists()
