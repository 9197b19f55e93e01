"""Folders of weights that timm, open_clip or transformers read by themselves.

These libraries cast complex and quantized tensors to floats without a word. So their files are looked at before.
"""

from pathlib import Path

from ....errors import InputError
from .files import dtypes_in
from .kinds import SAVE_AS_FLOATS

FOLDER = "local-dir:"
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
OF_TRAINING = ("optimizer", "scheduler", "rng_state", "training_args")
"""Beginnings of the names of files that training leaves beside weights, and that no library loads as such."""
FITTING = {
    *("F16", "BF16", "F32", "F64", "BOOL", "I16", "I32", "I64"),
    *("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64"),
    *("torch.bool", "torch.int16", "torch.int32", "torch.int64"),
}
"""Types as safetensors and torch name them: those of weights, and of indices, masks and counters beside them."""


def check_folder(name: str) -> None:
    """Refuse a folder with a tensor that can be no weight. The library tells of files that cannot be read.

    Args:
        name: of a model; only "local-dir:FOLDER" names a folder.

    Raises:
        InputError: the message names the file, the tensor and its type.
    """
    folder = Path(name.removeprefix(FOLDER)).expanduser()
    if not name.startswith(FOLDER) or not folder.is_dir():
        return
    weights = (path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.name.startswith(OF_TRAINING))
    for path in sorted(filter(Path.is_file, weights)):
        unfit = [(each, kind) for each, kind in _dtypes(path).items() if kind not in FITTING]
        if unfit:
            others = f", and {len(unfit) - 1} more are unusable" if len(unfit) > 1 else ""
            raise InputError(
                f"weights {str(path)!r}: {unfit[0][0]!r} is of type {unfit[0][1]}{others}; {SAVE_AS_FLOATS}"
            )


def _dtypes(path: Path) -> dict[str, str]:
    try:
        return dtypes_in(path)
    except InputError:  # the library tells of it if it wants this file
        return {}
