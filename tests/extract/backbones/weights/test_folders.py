"""Folders of weights: timm, open_clip and transformers would cast what cannot be weights silently."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tokenprobe.errors import InputError
from tokenprobe.extract.backbones import load_backbone

from ..kit import TINY_BLOCKS
from ..test_image_sizes import clip
from ..transformers_kit import KINDS, made_folder

ADVICE = "; save the weights as float16, bfloat16, float32 or float64 with the program that wrote them$"


def write_timm(folder: Path) -> None:
    arguments = TINY_BLOCKS | {"img_size": 32}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **arguments)
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": arguments}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {"input_size": [3, 32, 32]}}))
    save_file(model.state_dict(), folder / "model.safetensors")


def write_clip(folder: Path) -> None:
    clip(folder)


def write_transformers(folder: Path) -> None:
    made_folder(folder, KINDS["vit"])


SOURCES: dict[str, tuple[Callable[[Path], None], str]] = {
    "timm": (write_timm, "norm.weight"),
    "open_clip": (write_clip, "visual.ln_post.weight"),
    "transformers": (write_transformers, "layernorm.weight"),
}
"""What writes a small model as its library does, and the name of a weight."""
TYPES = {torch.int8: "I8", torch.uint8: "U8", torch.complex64: "C64", torch.float8_e4m3fn: "F8_E4M3"}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("source", SOURCES)
def test_a_tensor_that_can_be_no_weight_is_named(source: str, dtype: torch.dtype, tmp_path: Path) -> None:
    write, name = SOURCES[source]
    write(tmp_path)
    model = f"{source}:local-dir:{tmp_path}"
    load_backbone(model)
    (path,) = [*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.bin")]
    weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path)
    weights[name] = weights[name].to(dtype)
    if path.suffix == ".safetensors":
        save_file(weights, path, metadata={"format": "pt"})
    else:
        torch.save(weights, path)
    kind = TYPES[dtype] if path.suffix == ".safetensors" else str(dtype)
    with pytest.raises(InputError, match=rf"^weights '{path}': '{name}' is of type {kind}{ADVICE}"):
        load_backbone(model)


def test_of_several_the_first_is_named_and_the_others_are_counted(tmp_path: Path) -> None:
    weights = {"a": torch.ones(2), "b": torch.ones(2, dtype=torch.int8), "c": torch.ones(2, dtype=torch.complex64)}
    torch.save({"model": weights, "epoch": 3}, tmp_path / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(InputError, match=r"'model\.b' is of type torch\.int8, and 1 more are unusable" + ADVICE):
        load_backbone(f"timm:local-dir:{tmp_path}")


def test_files_beside_the_weights_do_not_count(tmp_path: Path) -> None:
    """Counters and indices are integers, and a trainer leaves files that only its own code reads."""
    write_timm(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        weights | {"index": torch.arange(3), "mask": torch.ones(2, dtype=torch.bool)}, tmp_path / "more.safetensors"
    )
    torch.save(Path("x"), tmp_path / "training_args.bin")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 20)
    (tmp_path / "optimizer.pt").write_bytes(b"")
    load_backbone(f"timm:local-dir:{tmp_path}")
