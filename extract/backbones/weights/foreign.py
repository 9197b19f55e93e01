"""Files that users mistake for weights, recognised by their first bytes or their name, and advice for each kind."""

import json
import struct
import zipfile
from pathlib import Path

N_SNIFFED = 512
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
SAVE_ALONE = "load it there and save its PyTorch state_dict, best as safetensors"
UNPACK = "unpack it first"
BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer instead of the weights; fetch them with git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", f"an HDF5 file, as Keras writes; {SAVE_ALONE}"),
    (b"GGUF", f"a GGUF file; {SAVE_ALONE}"),
    (b"\x93NUMPY", f"a NumPy array; {SAVE_ALONE}"),
    (b"\x1f\x8b", f"compressed by gzip; {UNPACK}"),
    (b"\xfd7zXZ", f"compressed by xz; {UNPACK}"),
    (b"BZh", f"compressed by bzip2; {UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"compressed by zstd; {UNPACK}"),
    (b"7z\xbc\xaf", f"a 7z archive; {UNPACK}"),
    (b"{", "a JSON file instead of the weights; name the file of the weights"),
)
"""First bytes of a file, and its description."""
TENSORFLOW = f"TensorFlow's; {SAVE_ALONE}"
NAMES = (
    ("*.data-?????-of-?????", TENSORFLOW),
    ("*.index", TENSORFLOW),
    ("*.meta", TENSORFLOW),
    ("*.pb", TENSORFLOW),
    ("*.msgpack", f"Flax's; {SAVE_ALONE}"),
    ("*.onnx", f"an ONNX file; {SAVE_ALONE}"),
    ("*.distcp", "a part of a distributed checkpoint; put it together with torch's format_utils dcp_to_torch"),
)
"""Patterns of file names, and their descriptions."""


def foreign_kind(path: Path) -> str:
    """Describe a file that cannot hold readable weights; return "" for others."""
    head = _head(path)
    if not head:
        return "empty; copy or download it again"
    if head.startswith(PICKLE) or _begins_as_safetensors(head):
        return ""
    if head.startswith(ZIP):
        return _kind_of_zip(path)
    if head.lstrip().startswith(b"<"):  # from a server that wants a login, or reports an error
        return "a web page (HTML or XML) instead of the weights; download them again, logged in if needed"
    by_content = (words for begin, words in BEGINNINGS if head.startswith(begin))
    by_name = (words for pattern, words in NAMES if path.match(pattern))
    return next(by_content, next(by_name, ""))


def is_safetensors(path: Path) -> bool:
    """Return whether a file is safetensors: it begins with eight bytes of header size and JSON, or has the suffix."""
    head = _head(path)
    return _begins_as_safetensors(head) or (path.suffix == ".safetensors" and not head.startswith((ZIP, PICKLE)))


def _begins_as_safetensors(head: bytes) -> bool:
    return head[4:8] == bytes(4) and head[8:9] == b"{"


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(N_SNIFFED)


def safetensors_fault(path: Path) -> str:
    """Describe how many of the bytes that its header declares a safetensors file lacks; "" if it lacks none."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            (n_header,) = struct.unpack("<Q", file.read(8))
            if 8 + n_header > size:
                declared = 8 + n_header
            else:
                tensors = json.loads(file.read(n_header))
                ends = (each["data_offsets"][1] for name, each in tensors.items() if name != "__metadata__")
                declared = 8 + n_header + max(ends, default=0)
    except (struct.error, ValueError, TypeError, LookupError, AttributeError):
        return ""
    return f"it has {size:,} bytes of the {declared:,} that its header declares" if declared > size else ""


def _kind_of_zip(path: Path) -> str:
    """Tell a NumPy archive and a TorchScript program from what torch.save writes; all are zip archives."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # any kind, for a damaged archive: torch's reader names the fault
        return ""
    if any(name.endswith("constants.pkl") for name in names):
        return "a TorchScript program; save the state_dict of its module"
    if any(name.endswith("data.pkl") for name in names):
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return f"a NumPy archive (.npz), as of JAX and Flax; {SAVE_ALONE}"
    return f"a zip archive that torch did not write; {UNPACK}"
