"""Files that users mistake for weights: each gets a description, and real weights get none."""

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tokenprobe.errors import InputError
from tokenprobe.extract.backbones.weights.files import load_checkpoint
from tokenprobe.extract.backbones.weights.foreign import foreign_kind, is_safetensors, safetensors_fault

from ..kit import WEIGHTS


def h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["kernel"] = np.zeros(3)


def npz(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, kernel=np.zeros(3))


def torchscript(path: Path) -> None:
    torch.jit.script(nn.Linear(3, 2)).save(str(path))


def other_zip(path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights.pth", b"\x80\x02")


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


ALONE = "; load it there and save its PyTorch state_dict, best as safetensors"
FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing.pth": (content(b""), "empty; copy or download it again"),
    "pointer.pth": (
        content(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n"),
        "a Git LFS pointer instead of the weights; fetch them with git lfs pull",
    ),
    "page.pth": (
        content(b"<!DOCTYPE html><html><body>404</body></html>"),
        "a web page (HTML or XML) instead of the weights",
    ),
    "page2.pth": (content(b"\n\n<html>"), "a web page (HTML or XML) instead of the weights"),
    "denied.safetensors": (content(b'<?xml version="1.0"?><Error>AccessDenied</Error>'), "a web page (HTML or XML)"),
    "config.pth": (
        content(b'{"architecture": "vit"}'),
        "a JSON file instead of the weights; name the file of the weights",
    ),
    "keras.h5": (h5, f"an HDF5 file, as Keras writes{ALONE}"),
    "flax.npz": (npz, f"a NumPy archive (.npz), as of JAX and Flax{ALONE}"),
    "array.npy": (lambda path: np.save(path, np.zeros(3)), f"a NumPy array{ALONE}"),
    "flax.msgpack": (content(b"\x81\xa6params\x81\xa1w\x01"), f"Flax's{ALONE}"),
    "model.ckpt.data-00000-of-00001": (content(bytes(64)), f"TensorFlow's{ALONE}"),
    "model.ckpt.index": (content(bytes(64)), f"TensorFlow's{ALONE}"),
    "model.onnx": (content(b"\x08\x07\x12\x07pytorch"), f"an ONNX file{ALONE}"),
    "model.gguf": (content(b"GGUF\x03\0\0\0"), f"a GGUF file{ALONE}"),
    "script.pt": (torchscript, "a TorchScript program; save the state_dict of its module"),
    "weights.zip": (other_zip, "a zip archive that torch did not write; unpack it first"),
    "weights.pth.gz": (lambda path: path.write_bytes(gzip.compress(b"weights")), "compressed by gzip; unpack it first"),
    "__0_0.distcp": (
        content(bytes(64)),
        "a part of a distributed checkpoint; put it together with torch's format_utils",
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_weights_file_is_told_what_it_is(tmp_path: Path, name: str) -> None:
    make, words = FOREIGN[name]
    make(tmp_path / name)
    assert foreign_kind(tmp_path / name).startswith(words)
    with pytest.raises(InputError) as caught:
        load_checkpoint(tmp_path / name)
    assert str(caught.value).startswith(f"checkpoint {str(tmp_path / name)!r} is {words}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.pth", "a.onnx", "a.index", "a.h5"])
def test_weights_are_known_by_their_content_under_any_name(tmp_path: Path, name: str) -> None:
    for zipped in (True, False):
        torch.save(WEIGHTS, tmp_path / name, _use_new_zipfile_serialization=zipped)
        assert foreign_kind(tmp_path / name) == "" and not is_safetensors(tmp_path / name)
    save_file(WEIGHTS, tmp_path / name)
    assert foreign_kind(tmp_path / name) == "" and is_safetensors(tmp_path / name)


@pytest.mark.parametrize("size", [0x3C, 0x3C09, 0x685A42])
def test_the_size_of_a_safetensors_header_is_not_read_as_text(tmp_path: Path, size: int) -> None:
    """The bytes of the size may read as "<", as a tab and "<", or as "BZh"."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", size + 8) + header.ljust(size + 8) + bytes(4))
    data = (tmp_path / "a.safetensors").read_bytes()
    for begin in (size, size + 8):
        (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", begin) + data[8:])
        assert foreign_kind(tmp_path / "b.safetensors") == ""


@pytest.mark.parametrize(
    ("header", "n_data", "expected"),
    [
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, 8, ""),
        (
            {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
            3,
            "it has 72 bytes of the 77 that its header declares",
        ),
        ({"w": {"dtype": "F32"}}, 3, ""),
        ({"w": 3}, 3, ""),
        ([], 3, ""),
        ({}, 0, ""),
    ],
)
def test_a_safetensors_file_says_how_much_of_it_is_gone(
    tmp_path: Path, header: object, n_data: int, expected: str
) -> None:
    data = json.dumps(header).encode()
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(data)) + data + bytes(n_data))
    found = safetensors_fault(tmp_path / "a")
    assert found.startswith(expected) and bool(found) == bool(expected)
