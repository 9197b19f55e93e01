"""What a fit decides before its first step, and every way in which it refuses."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokenprobe.errors import InputError, MissingError, StoreError
from tokenprobe.probe import FitConfig, fit, plan
from tokenprobe.probe.plan import Plan, make_plan
from tokenprobe.store import Store, open_store

MakeStore = Callable[..., Store]
N_ROWS = {"train": 60, "test": 21}


@pytest.fixture
def store(write_store: Callable[..., Store], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Train and test, layers 0 and 2, all kinds of tokens. Written once; not to be changed."""
    path = tmp_path_factory.getbasetemp() / "plan.zarr"
    return open_store(path) if path.exists() else write_made(write_store, path)


@pytest.fixture
def make_store(write_store: Callable[..., Store], tmp_path: Path) -> MakeStore:
    return lambda *args, **kwargs: write_made(write_store, tmp_path / "s.zarr", *args, **kwargs)


def write_made(
    write_store: Callable[..., Store],
    path: Path,
    splits: Sequence[str] = ("train", "test"),
    kinds: Sequence[str] = ("patch", "prefix", "mean"),
    embedding: bool = False,
) -> Store:
    rng = np.random.default_rng(0)
    labels = {split: np.arange(N_ROWS.get(split, 12)) % 3 for split in splits}
    tokens = {}
    for split, y in labels.items():
        patch = rng.normal(size=(len(y), 4, 8)).astype(np.float16)
        arrays = {"patch": patch, "prefix": patch[:, :1], "mean": patch.astype(np.float32).mean(1)}
        tokens[split] = {layer: {kind: arrays[kind] for kind in kinds} for layer in (0, 2)}
        if embedding:
            tokens[split][2]["embedding"] = rng.normal(size=(len(y), 3)).astype(np.float32)
    return write_store(path, tokens, labels, grid=(2, 2), block_rows=8)


def plan_for(store: Store, **changes: Any) -> Plan:
    return make_plan(store, FitConfig(**{"out": "run", "heads": ["linear"], "device": "cpu"} | changes))


def test_select_holds_out_a_tenth_and_sweeps_the_published_grid(store: Store) -> None:
    made = plan_for(store, seeds=3)
    (course,) = made.courses
    assert (len(course.train_rows), len(course.val_rows), len(made.data.test)) == (54, 6, 21)
    assert sorted([*course.train_rows, *course.val_rows]) == list(range(60))
    assert list(made.lrs) == [0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
    assert (course.batch_size, course.warmup_epochs, course.epochs) == (32, 10, 90)
    assert (course.shots, course.seeds, course.scored) == ("full", (0, 1, 2), tuple(range(1, 91)))
    assert made.layers == [(0,), (2,)]
    assert (made.device.type, made.precision, made.norm) == ("cpu", "float32", None)


def test_paper_trains_on_everything_at_the_published_rate(store: Store) -> None:
    made = plan_for(store, protocol="paper", epochs=45)
    (course,) = made.courses
    assert list(course.train_rows) == list(range(60)) and len(course.val_rows) == 0
    assert list(made.lrs) == [0.1]
    assert course.warmup_epochs == 5


def test_what_is_given_is_kept(store: Store) -> None:
    made = plan_for(store, lr=[0.7], batch_size=5, warmup_epochs=0, layers="2", amp="bfloat16", val=0.5)
    (course,) = made.courses
    assert (made.lrs, course.batch_size, course.warmup_epochs, made.layers) == ([0.7], 5, 0, [(2,)])
    assert made.precision == "bfloat16" and len(course.val_rows) == 30
    assert plan_for(store, amp="off").precision == "float32"


def test_the_seed_decides_what_is_held_out(store: Store) -> None:
    rows = [tuple(plan_for(store, seed=seed).courses[0].val_rows) for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


def test_a_subset_is_a_course_for_every_seed(store: Store) -> None:
    made = plan_for(store, shots=["full", "4", "1"], fraction=[0.5], seeds=2, epochs=20, batch_size=8)
    full, *subsets = made.courses
    named = [(course.shots, course.seeds) for course in subsets]
    assert named == [(shots, (seed,)) for shots in ("4", "1", "0.5") for seed in (0, 1)]
    assert full.seeds == (0, 1) and made.shots == ["full", "4", "1", "0.5"]
    labels = store["train"].labels
    for course, (shots, _) in zip(subsets, named, strict=True):
        counts = np.bincount(labels[course.train_rows], minlength=3).tolist()
        assert counts == {"4": [4] * 3, "1": [1] * 3, "0.5": [9] * 3}[shots]
        assert set(course.train_rows) <= set(full.train_rows) and set(course.val_rows) <= set(full.val_rows)
        assert np.bincount(labels[course.val_rows]).tolist() == [min(2, counts[0])] * 3
        assert course.batch_size == min(8, len(course.train_rows)) and course.epochs == 20
    assert not np.array_equal(subsets[0].train_rows, subsets[1].train_rows)
    assert np.array_equal(subsets[2].val_rows, subsets[3].val_rows)  # the run's seed draws them
    assert len(plan_for(store, fraction=[0.5]).courses) == 1  # a fraction alone


def test_a_subset_takes_as_many_steps_as_asked_for(store: Store) -> None:
    made = plan_for(store, shots=["1"], epochs=9, min_steps=100, warmup_epochs=2)
    (course,) = made.courses
    assert (course.batch_size, course.n_steps, course.epochs, course.warmup_epochs) == (3, 1, 9 * 12, 24)
    assert course.scored == tuple(range(12, 109, 12))


def test_data_may_bring_its_own_validation(make_store: MakeStore) -> None:
    made = plan_for(make_store(["train", "val", "test"]), val_split="val", shots=["full", "1"])
    full, one = made.courses
    assert list(full.train_rows) == list(range(60)) and list(full.val_rows) == list(range(12))
    assert (made.data.val.name, made.data.test.name, len(one.val_rows)) == ("val", "test", 3)


def test_the_test_split_may_lie_in_another_store(
    write_store: Callable[..., Store], make_store: MakeStore, tmp_path: Path
) -> None:
    train = make_store(["train"])
    other = write_made(write_store, tmp_path / "other.zarr", ["train", "test"])
    made = plan_for(train, test_store=other.path)
    assert made.data.test.store.path == other.path and made.data.test.name == "test"
    rewrite(other, recipe=replace(other.manifest.recipe, weights="1" * 64))
    with pytest.raises(
        InputError, match=r"test_store '.*other.zarr' does not hold the features of '.*s.zarr' \(weights: "
    ):
        plan_for(train, test_store=other.path)


def test_joined_layers_are_as_wide_as_all_of_them(store: Store) -> None:
    made = plan_for(store, layers="0,0+2")
    assert made.layers == [(0,), (0, 2)]
    assert (made.shape((0, 2)).dim, made.shape((0, 2)).grid) == (16, (2, 2))
    (course,) = made.courses
    assert made.groups((0, 2), course)[0].cells[0].layer == "0+2"


def test_layers_of_other_grids_are_not_joined(make_store: MakeStore) -> None:
    store = make_store()
    shapes = store.manifest.layers
    rewrite(store, layers=shapes | {"layer_02": replace(shapes["layer_02"], grid=(1, 4))})
    with pytest.raises(InputError, match=r"layers '0\+2' have different tokens \(0: \(2, 2\) \+ 1, 2: \(1, 4\) \+ 1\)"):
        plan_for(open_store(store.path), layers="0+2")


def test_a_mean_over_normed_tokens_needs_the_tokens(make_store: MakeStore) -> None:
    store = make_store(kinds=["mean"])
    norm = {"kind": "LayerNorm", "eps": 1e-6, "weight": [1.0] * 8, "bias": [0.0] * 8}
    rewrite(store, final_norm=norm)
    with pytest.raises(InputError, match=r"head 'linear:pool=mean' reads 'patch' tokens, and .* has none"):
        plan_for(open_store(store.path), norm="final")
    assert plan_for(open_store(store.path)).norm is None


def test_a_norm_of_other_channels_than_a_layers_is_refused(make_store: MakeStore) -> None:
    """As in hierarchical backbones, whose norm is of the last layer alone."""
    store = make_store()
    shapes = store.manifest.layers
    norm = {"kind": "LayerNorm", "eps": 1e-6, "weight": [1.0] * 8, "bias": [0.0] * 8}
    rewrite(store, final_norm=norm, layers=shapes | {"layer_00": replace(shapes["layer_00"], dim=4)})
    assert plan_for(open_store(store.path), norm="final", layers="2", heads=["linear:pool=cls"]).norm is not None
    with pytest.raises(InputError, match=r"norm 'final' asked for of layer 0, whose tokens are 4 wide"):
        plan_for(open_store(store.path), norm="final", layers="0,2")


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


def test_planning_draws_no_weights(store: Store) -> None:
    before = torch.get_rng_state()
    plan_for(store, heads=["siglip", "ep:queries=2", "dolg"])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_cell_for_every_point_of_the_grid(store: Store) -> None:
    made = plan_for(store, heads=["ep:queries=2|4", "linear"], lr=[0.1, 1], weight_decay=[0, 0.1], seeds=3)
    groups = made.groups((2,), made.courses[0])
    assert [len(group.cells) for group in groups] == [12, 12, 12]
    assert {cell.layer for group in groups for cell in group.cells} == {"2"}


def test_tokens_are_kept_in_memory_if_they_take_less_than_half_of_what_is_free(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan_for(store)
    token_bytes = (60 + 21) * 4 * 8 * 2
    monkeypatch.setattr(plan, "available_memory", lambda device: 2 * token_bytes + 2)
    assert made.places((0,), made.courses) == {"train": "ram", "test": "ram"}
    monkeypatch.setattr(plan, "available_memory", lambda device: 2 * token_bytes)
    assert made.places((0,), made.courses) == {"train": "disk", "test": "ram"}
    assert set(plan_for(store, cache="disk").places((0,), made.courses).values()) == {"disk"}


def test_small_subsets_are_kept_where_all_of_training_is_not(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan_for(store, shots=["full", "2", "1"], seeds=2)
    row = 4 * 8 * 2
    sizes = made.sizes((0,), made.courses)
    n_subset = len(np.unique(np.concatenate([[*c.train_rows, *c.val_rows] for c in made.courses[1:]])))
    assert sizes == {"train": 60 * row, "subsets": n_subset * row, "test": 21 * row}
    monkeypatch.setattr(plan, "available_memory", lambda device: 2 * 61 * row)
    assert made.places((0,), made.courses) == {"train": "disk", "subsets": "ram", "test": "ram"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": ["linaer"]}, "unknown head 'linaer'; known: linear, "),
        ({"heads": ["ep:querys=4"]}, "unknown setting of head 'ep' 'querys'; known: queries"),
        ({"heads": ["ep:queries=5"]}, "ep with queries=5, d_out=1 on tokens 8 wide"),
        ({"heads": ["linear:pool=cla"]}, "unknown setting pool of linear 'cla'; known: cls, "),
        ({"heads": []}, "no head or no weight decay given: there is nothing to fit"),
        ({"weight_decay": []}, "no head or no weight decay given: there is nothing to fit"),
        ({"layers": "1"}, "unknown layer of the store '1'; known: 0, 2"),
        ({"layers": "-4"}, "unknown layer of the store '-4'; known: "),
        ({"layers": "some"}, "layers 'some': expected all, lastN, or indices"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; known: adamw, "),
        ({"protocol": "papers"}, "unknown protocol 'papers'; known: paper, select"),
        ({"amp": "float6"}, "unknown amp 'float6'; known: float16, bfloat16"),
        ({"cache": "dsk"}, "unknown cache 'dsk'; known: disk, "),
        ({"norm": "last"}, "unknown norm 'last'; known: "),
        ({"norm": "final"}, "norm 'final' asked for, and '.*' keeps no final norm of 'timm:none'; give --norm none"),
        ({"shots": ["0"]}, "shots '0': expected full, or a number of images a class"),
        ({"shots": ["19"]}, r"shots 19: class 'class 0' has 18 training images, and 2 other classes have too few"),
        ({"fraction": [2.0]}, "fraction 2.0: expected a number between 0 and 1"),
        ({"min_steps": -1}, "min_steps -1: expected at least 0"),
        ({"val_split": "dev"}, "unknown split 'dev'; known: "),
        ({"val_split": "train"}, "split 'train' is both trained on and selected on; give another --val-split"),
        ({"val_split": "test"}, "has no split named test, val, validation beside 'train' and 'test'"),
        ({"heads": ["knn:k=55"]}, r"k=55 neighbours of 54 training images; give k of at most 54 \(shots full\)"),
        ({"val_split": "test", "test_split": "test"}, "split 'test' is both reported on and selected on"),
        (
            {"val_split": "test", "protocol": "paper"},
            "val_split 'test' asked for under protocol 'paper', which selects",
        ),
        ({"test_split": "train"}, "split 'train' is both trained on and reported on; give another --test-split"),
        ({"epochs": 0}, "epochs 0: expected at least 1"),
        ({"seeds": 0}, "seeds 0: expected at least 1"),
        ({"batch_size": 0}, "batch_size 0: expected at least 2"),
        ({"batch_size": 1}, "batch_size 1: expected at least 2"),  # BatchNorm has no statistics of one image
        ({"seed": -1}, "seed -1"),
        ({"warmup_epochs": 90}, "warmup_epochs 90: expected 0 or more, and fewer than 90 epochs"),
        ({"warmup_epochs": -0.5}, "warmup_epochs -0.5: expected 0 or more"),
        ({"warmup_epochs": float("nan")}, "warmup_epochs nan: expected 0 or more"),
        ({"lr": [0.1, 0.0]}, r"lr \[0.1, 0.0\], weight_decay \[0.0\]: expected rates above 0, decays of 0 or more"),
        ({"lr": [float("nan")]}, r"lr \[nan\]"),
        ({"lr": [float("inf")]}, r"lr \[inf\]"),
        ({"weight_decay": [-1.0]}, r"weight_decay \[-1.0\]: expected rates above 0, decays of 0 or more"),
        ({"weight_decay": [float("nan")]}, r"weight_decay \[nan\]"),
        ({"val": 0.0}, "val 0.0: expected a fraction between 0 and 1"),
        ({"train_split": "trian"}, "unknown split 'trian'; known: train, "),
        ({"test_split": "tests"}, "unknown split 'tests'; known: test, train"),
        ({"device": "tpu"}, "unknown device 'tpu'; expected auto, cpu, cuda or cuda:N"),
        ({"device": "meta"}, "device 'meta'"),  # torch knows it, but nothing can be trained there
        ({"device": "cuda:99"}, r"device 'cuda:99' asked for, but torch finds \d+ CUDA device\(s\)"),
        ({"cache": "gpu"}, "cache 'gpu' asked for on device 'cpu'; give --cache ram or disk"),
    ],
    ids=lambda value: ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_refused(store: Store, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_for(store, **changes)


def test_a_missing_gpu_is_no_reason_to_take_another_device(store: Store) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(InputError, match=r"device 'cuda' asked for, but torch finds 0 CUDA device\(s\)"):
        plan_for(store, device="cuda")


def test_a_head_without_its_tokens_is_refused(make_store: MakeStore) -> None:
    store = make_store(kinds=["patch", "mean"])
    expected = r"head 'linear:pool=cls' reads 'prefix' tokens, and train/layer_00 of '.*/s.zarr' has none"
    with pytest.raises(InputError, match=expected):
        plan_for(store, heads=["linear:pool=cls"])


def test_a_head_is_built_for_the_width_of_what_it_reads(make_store: MakeStore) -> None:
    made = plan_for(
        make_store(embedding=True), layers="-1", heads=["linear:pool=embedding", "linear", "ridge:pool=embedding"]
    )
    groups = [*made.groups((2,), made.courses[0]), *made.solver_groups((2,), made.courses[0])]
    assert [made.input_shape(group.cells[0]).dim for group in groups] == [3, 8, 3]


@pytest.mark.parametrize("layers", ["all", "0", "0+2"])
@pytest.mark.parametrize("head", ["linear:pool=embedding", "ridge:pool=embedding"])
def test_a_layer_without_an_embedding_is_refused(make_store: MakeStore, head: str, layers: str) -> None:
    expected = (
        rf"^head '{head}' reads 'embedding' tokens, and train/layer_00 of '.*/s.zarr' has none; only the last layer of "
        "open_clip backbones has an embedding: give --layers -1 for them, and another pool, such as mean, for others$"
    )
    with pytest.raises(InputError, match=expected):
        plan_for(make_store(embedding=True), heads=[head], layers=layers)


def test_a_store_without_an_embedding_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match=r"reads 'embedding' tokens, and train/layer_02 of .* has none; only the last"):
        plan_for(store, heads=["linear:pool=embedding"], layers="-1")


def test_a_store_without_a_test_split_is_refused(make_store: MakeStore) -> None:
    expected = (
        r"has no split named test, val, validation beside 'train' \(it has dev, train\); name the one .* --test-split"
    )
    store = make_store(["train", "dev"])
    with pytest.raises(InputError, match=expected):
        plan_for(store)
    assert plan_for(store, test_split="dev").data.test.name == "dev"


def test_a_store_of_a_single_split_is_told_how_to_get_another(make_store: MakeStore) -> None:
    expected = (
        r"\(it has train\); extract one, from data of a single split with --split-fraction, or give --test-store$"
    )
    with pytest.raises(InputError, match=expected):
        plan_for(make_store(["train"]))


def test_a_layer_that_the_test_split_lacks_is_refused(make_store: MakeStore) -> None:
    store = make_store()
    splits = store.manifest.splits
    only_first = replace(splits["test"], layers={"layer_00": splits["test"].layers["layer_00"]})
    rewrite(store, splits=splits | {"test": only_first})
    with pytest.raises(InputError, match="unknown layer in split 'test' '2'; known: 0"):
        plan_for(open_store(store.path))


def test_splits_of_other_classes_are_refused(make_store: MakeStore) -> None:
    """Equal labels would mean different things."""
    store = make_store()
    splits = store.manifest.splits
    others = replace(splits["test"], classes=["class 2", "class 0", "class 1"])
    rewrite(store, splits=splits | {"test": others})
    with pytest.raises(InputError, match="class"):
        plan_for(open_store(store.path))


def test_a_class_with_one_training_image_cannot_be_split(write_store: Callable[..., Store], tmp_path: Path) -> None:
    labels = {"train": np.array([0, 0, 1]), "test": np.array([0, 1])}
    tokens = {split: {0: {"mean": np.zeros((len(y), 8), np.float32)}} for split, y in labels.items()}
    store = write_store(tmp_path / "s.zarr", tokens, labels, grid=(2, 2), block_rows=8)
    with pytest.raises(InputError, match="class 'class 1' has one training image; a validation split"):
        plan_for(store)
    assert len(plan_for(store, protocol="paper").courses[0].train_rows) == 3


def test_an_unfinished_layer_is_refused_and_others_are_not(make_store: MakeStore) -> None:
    store = make_store()
    journal = store.path / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    kept = [line for line in lines if "test/layer_02/patch/c.0.1.0.0" not in line]
    assert len(kept) == len(lines) - 1
    journal.write_text("".join(kept))
    rewrite(store, complete=False)
    unfinished = open_store(store.path)
    expected = r"test/layer_02/patch of '.*' is not complete \(1 of 3 blocks are missing\); run the same probe extract"
    with pytest.raises(StoreError, match=expected):
        plan_for(unfinished)
    assert plan_for(unfinished, layers="0").layers == [(0,)]


def rewrite(store: Store, **changes: Any) -> None:
    """Change what a store declares."""
    store.arrays.root.write_bytes(store.arrays.root_bytes(replace(store.manifest, **changes)))


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    config = FitConfig(out=tmp_path / "run")
    with pytest.raises(MissingError, match=r"no store at '.*/nothing'; make one with probe extract"):
        fit(tmp_path / "nothing", config)
    with pytest.raises(StoreError, match="is not a token store: it has no manifest; make one with probe extract"):
        fit(tmp_path, config)
    assert not (tmp_path / "run").exists()
