"""Weights from files: what loads, what is refused, and that no code in a file is run."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tokenprobe.errors import InputError, MissingError
from tokenprobe.extract.backbones.checkpoint import LoadReport, load_checkpoint, load_weights

from .kit import WEIGHTS, assert_weights, named, of_file


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.folder,)


def test_safetensors_come_with_their_metadata(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors", metadata={"mean": "[0.1, 0.2, 0.3]"})
    checkpoint = load_checkpoint(tmp_path / "a.safetensors")
    assert_weights(checkpoint.weights)
    assert checkpoint.metadata == {"mean": "[0.1, 0.2, 0.3]"}


@pytest.mark.parametrize(
    ("content", "wrapper"),
    [
        (WEIGHTS, ""),
        ({"model": WEIGHTS}, "model"),
        ({"state_dict": WEIGHTS, "epoch": 3, "optimizer": {"lr": 0.1}}, "state_dict"),
        ({"teacher": WEIGHTS, "student": {"weight": torch.zeros(2, 3)}}, "teacher"),
        ({"encoder": {"weight": torch.zeros(2, 3)}, "target_encoder": WEIGHTS}, "target_encoder"),
        ({"encoder": WEIGHTS}, "encoder"),
        ({"model": {"state_dict": WEIGHTS}}, "model.state_dict"),
        ({"model": WEIGHTS, "args": argparse.Namespace(model="vit", lr=0.1)}, "model"),
    ],
    ids=["plain", "model", "state_dict", "teacher", "target_encoder", "encoder", "model.state_dict", "args"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_torch_files_give_the_weights_within(
    tmp_path: Path, content: dict[str, Any], wrapper: str, zipped: bool
) -> None:
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    checkpoint = load_checkpoint(tmp_path / "a.pth")
    assert_weights(checkpoint.weights)
    assert (checkpoint.wrapper, checkpoint.metadata) == (wrapper, {})


OF_ONE_PART = ["module.", "model.", "backbone.", "encoder.", "base_encoder.", "teacher.", "visual."]


@pytest.mark.parametrize("prefix", ["", *OF_ONE_PART, "module.backbone.", "module.encoder.", "model.teacher.backbone."])
def test_the_backbones_part_is_found_under_what_stands_before_its_names(prefix: str) -> None:
    module = nn.Linear(3, 2)
    others = {"head.weight": torch.ones(1), "module.predictor.bias": torch.ones(1)}
    report = load_weights(module, of_file(others | named(prefix), "teacher"))
    assert_weights(module.state_dict())
    assert report.ignored == list(others)
    assert report.part == ("teacher: " + prefix if prefix else "teacher")
    assert (report.n_loaded, report.n_weights, report.missing, report.resampled) == (2, 2, [], [])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pickled_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    made = tmp_path / "made-by-code"
    torch.save({"model": WEIGHTS, "extra": Code(made)}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    message = r"a\.pth' holds pickled code, which is not run; save its state_dict alone, best as safetensors"
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "a.pth")
    assert not made.exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2), tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds pickled code, which is not run; save its state_dict alone"):
        load_checkpoint(tmp_path / "a.pt")


GARBAGE = {
    "nothing": b"",
    "words": b"garbage",
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
    "no zip": b"PK\x03\x04 and then nothing of the kind",
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize(("suffix", "kind"), [(".pt", "torch"), (".safetensors", "safetensors")])
def test_garbage_is_named_as_such(tmp_path: Path, data: bytes, suffix: str, kind: str) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(data)
    with pytest.raises(InputError, match=rf"checkpoint '.*/a\{suffix}' is not a readable {kind} file: ") as caught:
        load_checkpoint(file)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value), "torch's advice to run the code is not ours"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_torch_file_cut_anywhere_is_refused(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "a.pt"
    torch.save(WEIGHTS, file, _use_new_zipfile_serialization=zipped)
    whole = file.read_bytes()
    for size in range(1, len(whole) - 1, max(1, len(whole) // 150)):
        file.write_bytes(whole[:size])
        # Cut within the name of a class, a file looks like one that names another class.
        with pytest.raises(InputError, match=r"checkpoint '.*' (is not a readable torch file: |holds pickled code)"):
            load_checkpoint(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no checkpoint at '.*/none\.pt'"):
        load_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(1)], torch.zeros(1), {"model": {"lr": 0.1}}])
def test_a_file_without_weights_says_where_they_were_looked_for(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt' holds no weights: looked for tensors, also under \('model', "):
        load_checkpoint(tmp_path / "a.pt")


def test_weights_go_into_the_module_and_extra_names_come_back() -> None:
    module = nn.Linear(3, 2)
    report = load_weights(module, of_file(WEIGHTS | {"head.weight": torch.ones(1), "mask": torch.ones(1)}))
    assert torch.equal(module(torch.tensor([1.0, 10.0, 100.0])), torch.tensor([217.0, 551.0]))
    assert report.ignored == ["head.weight", "mask"]


def test_half_precision_weights_become_the_modules_precision() -> None:
    module = nn.Linear(3, 2)
    half = {name: (tensor / 3).half() for name, tensor in WEIGHTS.items()}
    load_weights(module, of_file(half))
    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight, half["weight"].float())


@pytest.mark.parametrize(
    ("weights", "what"),
    [
        ({"weight": WEIGHTS["weight"]}, "lacks"),
        (WEIGHTS | {"bias": torch.tensor([7.0, float("nan")])}, "has as not finite"),
    ],
    ids=["missing", "not finite"],
)
def test_a_missing_weight_is_named_and_nothing_is_loaded(weights: dict[str, Tensor], what: str) -> None:
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    message = (
        rf"^checkpoint 'a\.pt' does not fit: it {what} 1 of the backbone's 2 weights, such as 'bias' "
        r"\(it has 'weight'.*, …\); check --model and --model-arg, or name what may be missing with --allow-missing$"
    )
    with pytest.raises(InputError, match=message):
        load_weights(module, of_file(weights))
    assert torch.equal(module.weight, before)


@pytest.mark.parametrize("allowed", ["1", "1.bias"])
def test_what_may_be_missing_stays_as_it_is(allowed: str) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2, bias=allowed == "1.bias"))
    own = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    given = named("0.") | ({"1.weight": torch.tensor([3.0, 4.0])} if allowed == "1.bias" else {})
    report = load_weights(module, of_file(given), allow_missing=[allowed])
    assert_weights(module.state_dict(), own | given)
    assert report.missing == [name for name in own if name not in given]
    assert f"checkpoint: 1 missing, left as initialised: {report.missing[0]}" in report.lines()


def test_a_name_to_allow_missing_must_be_one_of_the_backbones() -> None:
    with pytest.raises(InputError, match=r"^unknown weight to allow missing 'biass'; known: bias, weight$"):
        load_weights(nn.Linear(3, 2), of_file(WEIGHTS), allow_missing=["biass"])


def test_a_weight_of_another_shape_is_named_and_nothing_is_loaded() -> None:
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    message = (
        r"^checkpoint 'a\.pt' does not fit: 'bias' is \(3,\) there and \(2,\) in the backbone; "
        r"check --model and --model-arg$"
    )
    with pytest.raises(InputError, match=message):
        load_weights(module, of_file(WEIGHTS | {"bias": torch.zeros(3)}))
    assert torch.equal(module.weight, before)


def test_the_same_weights_under_two_names_are_refused() -> None:
    message = (
        r"^checkpoint 'a\.pt' has the backbone's weights more than once, under '' and 'backbone\.'; save those that "
        "are meant alone$"
    )
    with pytest.raises(InputError, match=message):
        load_weights(nn.Linear(3, 2), of_file(WEIGHTS | named("backbone.")))


def test_a_conversion_sees_names_without_what_all_begin_with() -> None:
    module = nn.Linear(3, 2)
    theirs = {"module.backbone.w": WEIGHTS["weight"].flatten(), "module.backbone.b": WEIGHTS["bias"]}
    report = load_weights(module, of_file(theirs), convert=lambda w: {"weight": w["w"].view(2, 3), "bias": w["b"]})
    assert_weights(module.state_dict())
    assert report.ignored == []


def test_the_report_says_what_happened_and_nothing_else() -> None:
    none: list[str] = []
    report = LoadReport(3, 4, "model: encoder.", ["pos_embed"], ["norm"], [f"head.{i}" for i in range(6)])
    assert report.lines() == [
        "checkpoint: 3 of the backbone's 4 weights loaded from 'model: encoder.'",
        "checkpoint: 1 resampled to the backbone's grid: pos_embed",
        "checkpoint: 1 missing, left as initialised: norm",
        "checkpoint: 6 no place in the backbone, ignored: head.0, head.1, head.2, head.3, head.4, …",
    ]
    assert LoadReport(4, 4, "", none, none, none).lines() == ["checkpoint: 4 of the backbone's 4 weights loaded"]
