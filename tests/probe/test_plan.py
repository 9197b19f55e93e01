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
) -> Store:
    rng = np.random.default_rng(0)
    labels = {split: np.arange(N_ROWS.get(split, 12)) % 3 for split in splits}
    tokens = {}
    for split, y in labels.items():
        patch = rng.normal(size=(len(y), 4, 8)).astype(np.float16)
        arrays = {"patch": patch, "prefix": patch[:, :1], "mean": patch.astype(np.float32).mean(1)}
        tokens[split] = {layer: {kind: arrays[kind] for kind in kinds} for layer in (0, 2)}
    return write_store(path, tokens, labels, grid=(2, 2), block_rows=8)


def plan_for(store: Store, **changes: Any) -> Plan:
    return make_plan(store, FitConfig(**{"out": "run", "heads": ["linear"], "device": "cpu"} | changes))


def test_select_holds_out_a_tenth_and_sweeps_the_published_grid(store: Store) -> None:
    made = plan_for(store)
    assert (len(made.train_rows), len(made.val_rows), len(made.test_split)) == (54, 6, 21)
    assert sorted([*made.train_rows, *made.val_rows]) == list(range(60))
    assert list(made.lrs) == [0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
    assert (made.batch_size, made.warmup_epochs, made.layers) == (32, 10, [0, 2])
    assert (made.device.type, made.precision) == ("cpu", "float32")


def test_paper_trains_on_everything_at_the_published_rate(store: Store) -> None:
    made = plan_for(store, protocol="paper", epochs=45)
    assert list(made.train_rows) == list(range(60)) and len(made.val_rows) == 0
    assert list(made.lrs) == [0.1]
    assert made.warmup_epochs == 5


def test_what_is_given_is_kept(store: Store) -> None:
    made = plan_for(store, lr=[0.7], batch_size=5, warmup_epochs=0, layers="2", amp="bfloat16", val=0.5)
    assert (made.lrs, made.batch_size, made.warmup_epochs, made.layers) == ([0.7], 5, 0, [2])
    assert made.precision == "bfloat16" and len(made.val_rows) == 30
    assert plan_for(store, amp="off").precision == "float32"


def test_the_seed_decides_what_is_held_out(store: Store) -> None:
    rows = [tuple(plan_for(store, seed=seed).val_rows) for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


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
    assert plan_for(make_store(splits), **changes).test_split.name == expected


def test_planning_draws_no_weights(store: Store) -> None:
    before = torch.get_rng_state()
    plan_for(store, heads=["siglip", "ep:queries=2", "dolg"])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_cell_for_every_point_of_the_grid(store: Store) -> None:
    made = plan_for(store, heads=["ep:queries=2|4", "linear"], lr=[0.1, 1], weight_decay=[0, 0.1], seeds=3)
    assert [len(group) for group in made.groups(2)] == [12, 12, 12]
    assert {cell.layer for group in made.groups(2) for cell in group} == {2}


def test_tokens_are_kept_in_memory_if_they_take_less_than_half_of_what_is_free(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan_for(store)
    token_bytes = (60 + 21) * 4 * 8 * 2
    monkeypatch.setattr(plan, "_available_ram", lambda: 2 * token_bytes + 2)
    assert made.cache(0) == "ram"
    monkeypatch.setattr(plan, "_available_ram", lambda: 2 * token_bytes)
    assert made.cache(0) == "disk"
    assert plan_for(store, cache="ram").cache(0) == "ram"


def test_available_memory_is_some_but_not_more_than_there_is() -> None:
    page, n_pages = (plan.os.sysconf(name) for name in ("SC_PAGE_SIZE", "SC_PHYS_PAGES"))
    assert 2**20 < plan._available_ram() <= page * n_pages


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
    ids=lambda value: "=".join(map(str, *value.items())) if isinstance(value, dict) else "",
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


def test_a_store_without_a_test_split_is_refused(make_store: MakeStore) -> None:
    expected = (
        r"has no split named test, val, validation beside 'train' \(it has dev, train\); name the one .* --test-split"
    )
    store = make_store(["train", "dev"])
    with pytest.raises(InputError, match=expected):
        plan_for(store)
    assert plan_for(store, test_split="dev").test_split.name == "dev"


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
    with pytest.raises(InputError, match="class 1 has one training image"):
        plan_for(store)
    assert len(plan_for(store, protocol="paper").train_rows) == 3


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
    assert plan_for(unfinished, layers="0").layers == [0]


def rewrite(store: Store, **changes: Any) -> None:
    """Change what a store declares."""
    store.files.root.write_bytes(store.files.root_bytes(replace(store.manifest, **changes)))


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    config = FitConfig(out=tmp_path / "run")
    with pytest.raises(MissingError, match=r"no store at '.*/nothing'; make one with probe extract"):
        fit(tmp_path / "nothing", config)
    with pytest.raises(StoreError, match="is not a token store: it has no manifest; make one with probe extract"):
        fit(tmp_path, config)
    assert not (tmp_path / "run").exists()
