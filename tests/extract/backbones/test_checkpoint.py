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
from tokenprobe.extract.backbones.checkpoint import load_checkpoint, load_weights

WEIGHTS = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor([7.0, 8.0])}


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.folder,)


def named(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in WEIGHTS.items()}


def assert_weights(found: dict[str, Tensor]) -> None:
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in WEIGHTS.items())


def test_safetensors_come_with_their_metadata(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors", metadata={"mean": "[0.1, 0.2, 0.3]"})
    weights, metadata = load_checkpoint(tmp_path / "a.safetensors")
    assert_weights(weights)
    assert metadata == {"mean": "[0.1, 0.2, 0.3]"}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"model": WEIGHTS},
        {"state_dict": WEIGHTS, "epoch": 3, "optimizer": {"lr": 0.1}},
        {"teacher": WEIGHTS, "student": {"weight": torch.zeros(2, 3)}},
        {"encoder": WEIGHTS},
        {"model": {"state_dict": WEIGHTS}},
        {"model": WEIGHTS, "args": argparse.Namespace(model="vit", lr=0.1)},
        named("module."),
        named("backbone."),
        named("module.backbone."),
        {"state_dict": named("module.encoder.")},
    ],
    ids=lambda content: ",".join(content),
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_torch_files_give_the_weights_within(tmp_path: Path, content: dict[str, Any], zipped: bool) -> None:
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    weights, metadata = load_checkpoint(tmp_path / "a.pth")
    assert_weights(weights)
    assert metadata == {}


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone."])
def test_wrappers_names_are_stripped_in_safetensors_too(tmp_path: Path, prefix: str) -> None:
    save_file(named(prefix), tmp_path / "a.safetensors")
    assert_weights(load_checkpoint(tmp_path / "a.safetensors")[0])


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


def test_weights_go_into_the_module_and_extra_keys_come_back() -> None:
    module = nn.Linear(3, 2)
    extra = load_weights(module, WEIGHTS | {"head.weight": torch.ones(1), "mask": torch.ones(1)}, Path("a.pt"))
    assert torch.equal(module(torch.tensor([1.0, 10.0, 100.0])), torch.tensor([217.0, 551.0]))
    assert extra == ["head.weight", "mask"]


def test_half_precision_weights_become_the_modules_precision() -> None:
    module = nn.Linear(3, 2)
    half = {name: (tensor / 3).half() for name, tensor in WEIGHTS.items()}
    assert load_weights(module, half, Path("a.pt")) == []
    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight, half["weight"].float())


def test_a_missing_weight_is_named_and_nothing_is_loaded() -> None:
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    message = (
        r"^checkpoint 'a\.pt' does not fit: it lacks 1 of the backbone's 2 weights, such as 'bias' "
        r"\(it has 'weight', …\); check --model and --model-arg$"
    )
    with pytest.raises(InputError, match=message):
        load_weights(module, {"weight": WEIGHTS["weight"]}, Path("a.pt"))
    assert torch.equal(module.weight, before)


def test_a_weight_of_another_shape_is_named_and_nothing_is_loaded() -> None:
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    message = (
        r"^checkpoint 'a\.pt' does not fit: 'bias' is \(3,\) there and \(2,\) in the backbone; "
        r"check --model and --model-arg$"
    )
    with pytest.raises(InputError, match=message):
        load_weights(module, WEIGHTS | {"bias": torch.zeros(3)}, Path("a.pt"))
    assert torch.equal(module.weight, before)


def test_weights_with_and_without_a_prefix_do_not_hide_one_another(tmp_path: Path) -> None:
    copies = {name: tensor.clone() for name, tensor in named("backbone.").items()}
    save_file(WEIGHTS | copies, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"weights both with and without 'backbone\.' before their names"):
        load_checkpoint(tmp_path / "a.safetensors")
