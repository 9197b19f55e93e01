"""Forward passes: their batches, their precision, and what they leave out."""

from pathlib import Path

import numpy as np
import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from tokenprobe.extract import extract
from tokenprobe.store import open_store

from .kit import MakeConfig, hooked, made_vit, pixels_by_hand


def test_every_forward_pass_has_the_full_batch_size(tiny_config: MakeConfig) -> None:
    """Kernels may round otherwise at another size. Blocks of 3 images are cut into batches of 3, not padded to 4."""
    seen: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, PatchEmbed):
            seen.append(len(inputs[0]))

    handle = register_module_forward_pre_hook(note)
    try:
        extract(tiny_config(split=["test"]))
    finally:
        handle.remove()
    assert seen[-8:] == [3] * 8


def test_bfloat16_is_recorded_and_close_to_a_direct_forward_under_autocast(
    tiny_config: MakeConfig, image_folder: Path, tmp_path: Path
) -> None:
    model = made_vit(tmp_path / "a.safetensors")
    config = tiny_config(checkpoint=tmp_path / "a.safetensors", no_pretrained=False, amp="bfloat16", batch_size=3)
    store = open_store(extract(config))
    rows = store["test"]
    images = torch.stack([pixels_by_hand(image_folder / "test" / key) for key in rows.ids])
    exact = hooked(model.blocks, model, images)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = hooked(model.blocks, model, images)
    assert store.manifest.recipe.precision == "bfloat16"
    stored = rows.tokens(2).astype(np.float32)
    # Kernels of another batch size may round single values to the neighbouring bfloat16; on average they do not.
    error = np.abs(stored - rounded[2][:, 1:]).mean()
    assert error < 0.1 * np.abs(exact[2][:, 1:] - rounded[2][:, 1:]).mean()
