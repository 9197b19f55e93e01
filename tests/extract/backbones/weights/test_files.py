"""Weights from files: reading, refusals, and no run of the code in a file."""

import argparse
import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tokenprobe.errors import InputError, MissingError
from tokenprobe.extract.backbones.weights.files import MAX_DEPTH, load_checkpoint

from ..kit import WEIGHTS, assert_weights, named

ZIPPED = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_safetensors_come_with_their_metadata_whatever_their_name(tmp_path: Path, name: str) -> None:
    save_file(WEIGHTS, tmp_path / name, metadata={"mean": "[0.1, 0.2, 0.3]"})
    checkpoint = load_checkpoint(tmp_path / name)
    assert_weights(checkpoint.weights)
    assert (checkpoint.sets, checkpoint.metadata) == (("",), {"mean": "[0.1, 0.2, 0.3]"})


CONTENTS: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
    "plain": (WEIGHTS, WEIGHTS, ("",)),
    "model": ({"model": WEIGHTS}, named("model."), ("model.",)),
    "nested": ({"model": {"state_dict": WEIGHTS}}, named("model.state_dict."), ("model.state_dict.",)),
    "optimizer": ({"net": WEIGHTS, "epoch": 3, "optimizer": {"state": {0: WEIGHTS}}}, named("net."), ("net.",)),
    "opt": ({"encoder": WEIGHTS, "opt": WEIGHTS}, named("encoder."), ("encoder.",)),
    "two": ({"ema": WEIGHTS, "net": WEIGHTS}, named("ema.") | named("net."), ("ema.", "net.")),
    "parameters": ({"w": nn.Parameter(WEIGHTS["weight"]), "n": 3}, {"w": WEIGHTS["weight"]}, ("",)),
    "command line": ({"model": WEIGHTS, "args": argparse.Namespace(model="vit", lr=0.1)}, named("model."), ("model.",)),
    "numpy": (
        {"model": WEIGHTS, "best": np.float64(0.7), "epoch": np.int64(3), "done": np.bool_(True), "lr": np.float32(1)},
        named("model."),
        ("model.",),
    ),
}


@pytest.mark.parametrize("content", CONTENTS)
@ZIPPED
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_torch_files_give_all_weights_with_their_keys_before_their_names(
    tmp_path: Path, content: str, zipped: bool, name: str
) -> None:
    given, expected, sets = CONTENTS[content]
    torch.save(given, tmp_path / name, _use_new_zipfile_serialization=zipped)
    checkpoint = load_checkpoint(tmp_path / name)
    assert_weights(checkpoint.weights, expected)
    assert (checkpoint.sets, checkpoint.metadata) == (sets, {})


def test_a_scalar_of_an_older_numpy_is_read(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "best": np.float64(0.7)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert (tmp_path / "a.pth").read_bytes() != data
    assert_weights(load_checkpoint(tmp_path / "a.pth").weights, named("model."))


@ZIPPED
def test_pickled_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    made = tmp_path / "made-by-code"
    torch.save({"model": WEIGHTS, "extra": Code(made)}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    message = (
        r"a\.pth' holds 'posix\.mkdir', which only code in the file can create, and no code is run; save its "
        "state_dict alone, best as safetensors$"
    )
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "a.pth")
    assert not made.exists()


@pytest.mark.parametrize(
    ("content", "named_so"),
    [
        (nn.Linear(3, 2), "torch.nn.modules.linear.Linear"),
        ({"model": WEIGHTS, "losses": np.zeros(3)}, "numpy._core.multiarray._reconstruct"),
        ({"model": WEIGHTS, "args": {"out": Path("runs")}}, "pathlib.PosixPath"),
    ],
    ids=["module", "array", "path"],
)
def test_an_object_of_another_class_is_named(tmp_path: Path, content: Any, named_so: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match=rf"a\.pt' holds '{named_so}', which only code in the file can create, and no"):
        load_checkpoint(tmp_path / "a.pt")


GARBAGE = {"words": b"garbage", "no zip": b"PK\x03\x04 and then nothing of the kind", "zeros": bytes(1000)}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize(("suffix", "kind"), [(".pt", "torch"), (".safetensors", "(safetensors|torch)")])
def test_garbage_is_named_as_such(tmp_path: Path, data: bytes, suffix: str, kind: str) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(data)
    with pytest.raises(InputError, match=rf"checkpoint '.*/a\{suffix}' is not a readable {kind} file: ") as caught:
        load_checkpoint(file)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value), "torch's advice to run the code is not ours"


@ZIPPED
def test_a_torch_file_cut_anywhere_is_refused(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "a.pt"
    torch.save(WEIGHTS, file, _use_new_zipfile_serialization=zipped)
    whole = file.read_bytes()
    for size in range(1, len(whole) - 1, max(1, len(whole) // 150)):
        file.write_bytes(whole[:size])
        # Cut within the name of a class, a file looks like one that names another class.
        with pytest.raises(
            InputError, match=r"checkpoint '.*' (is not a readable torch file: |holds '.*', which only code)"
        ):
            load_checkpoint(file)


def test_a_safetensors_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file(WEIGHTS, file)
    whole = file.read_bytes()
    for size in range(9, len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(InputError, match=rf"safetensors file: it has {size} bytes of the \d+ that its") as caught:
            load_checkpoint(file)
        (declared,) = re.findall(r"of the (\d+)", str(caught.value))
        assert size < int(declared) <= len(whole)


@pytest.mark.filterwarnings("error")
def test_tensors_of_odd_kinds_are_read_without_a_warning_of_torchs(tmp_path: Path) -> None:
    """They are refused by name later, in one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_tensor(torch.ones(2, 2), 0.01, 0, torch.qint8)
        kinds = {"coo": torch.eye(2).to_sparse(), "csr": torch.eye(2).to_sparse_csr(), "qint8": quantized}
        torch.save(kinds, tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth").weights.keys() == kinds.keys()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no checkpoint at '.*/none\.pt'"):
        load_checkpoint(tmp_path / "none.pt")


def endless() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


def deep() -> dict[str, Any]:
    content: dict[str, Any] = dict(WEIGHTS)
    for _ in range(MAX_DEPTH + 1):
        content = {"model": content}
    return content


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, [torch.zeros(1)], torch.zeros(1), {"model": {"lr": 0.1}}, endless(), deep()]
)
def test_a_file_without_weights_says_where_they_were_looked_for(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt' holds no weights: no dictionary in it has names of tensors$"):
        load_checkpoint(tmp_path / "a.pt")


# --- shards ---------------------------------------------------------------------------------------------------


def shards(folder: Path, suffix: str = ".safetensors") -> Path:
    files = [f"model-0000{i}-of-00002{suffix}" for i in (1, 2)]
    for (name, tensor), file in zip(WEIGHTS.items(), files, strict=True):
        if suffix == ".bin":
            torch.save({name: tensor}, folder / file)
        else:
            save_file({name: tensor}, folder / file, metadata={"format": "pt"})
    index = folder / f"model{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict(zip(WEIGHTS, files, strict=True))}))
    return index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_are_read_by_their_index_or_its_folder(tmp_path: Path, suffix: str) -> None:
    index = shards(tmp_path, suffix)
    for path in (index, tmp_path):
        checkpoint = load_checkpoint(path)
        assert_weights(checkpoint.weights)
        assert (checkpoint.path, checkpoint.sets) == (index, ("",))


def test_one_shard_alone_is_refused(tmp_path: Path) -> None:
    shards(tmp_path)
    message = r"00002\.safetensors' is one shard of several; give the folder of all shards with their index \(\*\.index"
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "model-00001-of-00002.safetensors")


def test_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    index = shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    message = (
        r"^1 of the 2 shards of checkpoint '.*\.index\.json' are not beside it, such as 'model-00002-of-00002\.saf"
    )
    with pytest.raises(MissingError, match=message):
        load_checkpoint(index)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"weight_map": 3}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": [3]}}',
        '{"weight_map": {"a": "../b.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        "[" * 100_000,
    ],
)
def test_an_index_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.index.json").write_text(content)
    with pytest.raises(
        InputError, match=r"a\.index\.json' is not an index of shards: expected a weight_map from names to fil"
    ):
        load_checkpoint(tmp_path)


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"' is a folder without an index of shards \(\*\.index\.json\); name a file$"):
        load_checkpoint(tmp_path)
    (tmp_path / "__0_0.distcp").touch()
    with pytest.raises(
        InputError, match=r"' is a folder of a distributed checkpoint; put it together with torch's for"
    ):
        load_checkpoint(tmp_path)
