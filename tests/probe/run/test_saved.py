"""Saved heads: what a file holds, and what comes back from it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tokenprobe.errors import InputError, MissingError, RunError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.probe import load_head
from tokenprobe.probe.run.digest import value_digest
from tokenprobe.probe.run.saved import DIGEST, KEY, backbone_settings, load_saved, write_head
from tokenprobe.store import Store, open_store
from tokenprobe.workflows.config import ExportConfig
from tokenprobe.workflows.export import export

from ..kit import fit_made, write_made

WriteStore = Callable[..., Store]
MakeConfig = Callable[..., ExtractConfig]


@pytest.fixture
def store(write_store: WriteStore, tmp_path: Path) -> Store:
    return write_made(write_store, tmp_path / "s.zarr")


def test_a_saved_head_holds_one_cells_weights_in_float32(store: Store, tmp_path: Path) -> None:
    heads = ["ep:queries=2,d_out=2", "linear:pool=cls", "linear"]
    run = fit_made(store, tmp_path / "run", heads=heads, lr=[0.3, 3.0], amp="bfloat16")
    assert {f"{cell}.safetensors" for cell in run.results["cell"]} == {f.name for f in (run.path / "heads").iterdir()}
    for row in run.results.itertuples():
        state = load_file(run.path / "heads" / f"{row.cell}.safetensors")
        assert {value.dtype for value in state.values()} == {torch.float32}
        width = 4 if row.head == "ep" else 8
        expected = {"weight": (4, width), "bias": (4,), "running_mean": (width,), "running_var": (width,)}
        if row.head == "ep":
            expected |= {"pooling.queries": (2, 8), "pooling.value": (4, 8)}
        assert {name: tuple(value.shape) for name, value in state.items()} == expected
        head = load_head(run.path, row.cell)
        assert not head.training and head.n_params() == row.n_params


def test_an_unknown_cell_is_refused_with_the_nearest_first(store: Store, tmp_path: Path) -> None:
    run = fit_made(store, tmp_path / "run")
    cell = run.results["cell"].iloc[-1]
    with pytest.raises(InputError, match=f"unknown cell of '.*/run' '{cell}0'; known: {cell}, "):
        load_head(run.path, cell + "0")


def test_heads_of_no_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no trained heads in '.*/nothing/heads'; make a run with probe fit"):
        load_head(tmp_path / "nothing", "none-layer_00-ep")


def test_a_file_says_what_its_head_reads(write_store: WriteStore, tmp_path: Path) -> None:
    norm = {"kind": "LayerNorm", "eps": 1e-6, "weight": [1.0] * 8, "bias": None}
    store = write_made(write_store, tmp_path / "s.zarr", final_norm=norm)
    heads = ["linear:pool=cls+mean", "ep:queries=2", "ridge", "logreg", "knn"]
    run = fit_made(store, tmp_path / "run", heads=heads, layers="0+1", lr=[1.0], norm="final")
    with_heads = run.results[run.results["head"] != "knn"]
    for row in with_heads.itertuples():
        _, about = load_saved(run.path, row.cell)
        assert (about.layers, about.dim, about.grid, about.multi_label) == ([0, 1], 16, (2, 3), False)
        assert "+".join(about.tokens) == row.tokens and about.head == ("ep" if row.head == "ep" else "linear")
        assert about.classes == store["train"].classes and about.norm == norm
        assert about.logits == (row.head != "ridge")
    with pytest.raises(InputError, match=r"cell '.*-knn-.*' of '.*/run' has no weights: knn has none"):
        load_saved(run.path, run.results["cell"][run.results["head"] == "knn"].iloc[0])
    plain = fit_made(store, tmp_path / "plain", heads=["linear"])
    assert load_saved(plain.path, plain.results["cell"].iloc[0])[1].norm is None


def test_the_backbones_settings_are_those_of_the_extraction(tiny_config: MakeConfig, tmp_path: Path) -> None:
    """The journal has them all, that of an archive too; without one, the manifest has the model and its arguments."""
    config = tiny_config(seed=3)
    store = open_store(extract(config))
    expected = {"model": config.model, "model_arg": config.model_arg}
    rest: dict[str, Any] = {"checkpoint": None, "checkpoint_key": None, "checkpoint_grid": []}
    rest |= {"allow_missing": [], "no_pretrained": True, "seed": 3, "image_size": []}
    assert backbone_settings(store) == expected | rest
    export(config.out, ExportConfig(out=tmp_path / "archive.zarr"))
    assert backbone_settings(open_store(tmp_path / "archive.zarr")) == expected | rest
    (tmp_path / "archive.zarr" / "journal.jsonl").unlink()
    assert backbone_settings(open_store(tmp_path / "archive.zarr")) == expected


DAMAGED = r"'.*\.safetensors' is damaged, or was written by another version of tokenprobe"


@pytest.fixture
def saved(store: Store, tmp_path: Path) -> Path:
    """The file of a linear head."""
    run = fit_made(store, tmp_path / "run", heads=["linear"], lr=[1.0], layers="1")
    (path,) = (run.path / "heads").iterdir()
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> None:
    """Change what a file says and holds, with the digest that belongs to it, as another program might."""
    state = load_file(path)
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()[KEY])
    del values[DIGEST]
    change(values, state)
    save_file(state, path, metadata={KEY: json.dumps(values | {DIGEST: value_digest([path.stem, values, state])})})


def test_a_file_that_is_written_anew_is_read(saved: Path) -> None:
    rewrite(saved, lambda values, state: values.update(classes=["a", "b", "c", "d"]))
    assert load_saved(saved.parents[1], saved.stem)[1].classes == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"transform": None}, "transform is missing"),
        ({"new": 1}, "new is not known here"),
        ({"dim": 7}, "weights for 4 classes and 8 features; its settings say"),
        ({"dim": "8"}, "dim is '8'; expected a whole number"),
        ({"dim": 2**40}, "dim is 1099511627776; expected 1 to 16777216"),
        ({"grid": [2]}, "grid is a list of 1; expected 2 values"),
        ({"classes": ["a"]}, "weights for 4 classes and 8 features; its settings say"),
        ({"head": "nothing"}, "unknown head 'nothing'; known: "),
        ({"head": "ep"}, "unknown setting of head 'ep' 'pool'"),
        ({"settings": {"pool": ["cls"]}}, "unhashable"),
        ({"layers": [-1]}, r"layers\[0\] is -1; expected 0 to"),
        ({"multi_label": "no"}, "multi_label is 'no'; expected true or false"),
        ({"norm": 3}, "norm is 3; expected keys and values"),
    ],
)
def test_what_does_not_fit_is_refused(saved: Path, changes: dict[str, Any], reason: str) -> None:
    def change(values: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
        values.update(changes)
        for name in [name for name, value in changes.items() if value is None]:
            del values[name]

    rewrite(saved, change)
    with pytest.raises(RunError, match=rf"{DAMAGED} \({reason}"):
        load_head(saved.parents[1], saved.stem)


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean"])
def test_weights_that_do_not_fit_are_refused(saved: Path, name: str) -> None:
    rewrite(saved, lambda values, state: state.update({name: state[name][:-1].clone()}))
    with pytest.raises(RunError, match=DAMAGED):
        load_head(saved.parents[1], saved.stem)
    rewrite(saved, lambda values, state: state.__delitem__(name))
    with pytest.raises(RunError, match=DAMAGED):
        load_head(saved.parents[1], saved.stem)


def test_a_head_under_the_name_of_another_is_refused(saved: Path) -> None:
    saved.rename(saved.with_name("none-layer_00-other.safetensors"))
    with pytest.raises(RunError, match=rf"{DAMAGED} \(its name, settings or weights are not those that were written"):
        load_head(saved.parents[1], "none-layer_00-other")


def test_no_bit_of_a_file_changes_a_head_unseen(saved: Path) -> None:
    content, (head, about) = saved.read_bytes(), load_saved(saved.parents[1], saved.stem)
    tokens = torch.randn(5, 1, 8)
    expected, refused = head(tokens), 0
    for bit in range(0, 8 * len(content), 61):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        saved.write_bytes(changed)
        try:
            found, found_about = load_saved(saved.parents[1], saved.stem)
        except RunError:
            refused += 1
        else:
            assert torch.equal(found(tokens), expected) and found_about == about
    assert refused > 100


@pytest.mark.parametrize("n_bytes", [0, 4, 100, -1])
def test_a_file_that_was_cut_is_refused(saved: Path, n_bytes: int) -> None:
    saved.write_bytes(saved.read_bytes()[:n_bytes])
    with pytest.raises(RunError, match=DAMAGED):
        load_head(saved.parents[1], saved.stem)


@pytest.mark.parametrize("metadata", [None, {KEY: "no JSON"}, {KEY: "[1]"}, {KEY: "{}"}])
def test_a_file_of_something_else_is_refused(saved: Path, metadata: dict[str, str] | None) -> None:
    save_file({"weight": torch.zeros(1)}, saved, metadata=metadata)
    with pytest.raises(RunError, match=DAMAGED):
        load_head(saved.parents[1], saved.stem)


def test_a_folder_in_place_of_a_file_is_refused(saved: Path) -> None:
    saved.unlink()
    saved.mkdir()
    with pytest.raises(RunError, match=DAMAGED):
        load_head(saved.parents[1], saved.stem)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8])
def test_weights_of_another_type_are_refused(store: Store, tmp_path: Path, dtype: torch.dtype) -> None:
    """The digest does not help: somebody else can write another one."""
    run = fit_made(store, tmp_path / "run", heads=["linear"])
    cell = run.results["cell"].iloc[0]
    state = load_file(run.path / "heads" / f"{cell}.safetensors")
    write_head(run.path, cell, state | {"bias": state["bias"].to(dtype)}, load_saved(run.path, cell)[1])
    message = (
        rf"{cell}\.safetensors' is damaged, or .* \('bias' is of type {dtype}, and expected of type torch\.float32\)"
    )
    with pytest.raises(RunError, match=message):
        load_head(run.path, cell)
