"""Forward passes: their batches, their precision and their padding."""

from pathlib import Path

import numpy as np
import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from tokenprobe.extract import extract
from tokenprobe.extract.backbones import load_backbone
from tokenprobe.extract.datasets import open_dataset
from tokenprobe.extract.forward import Batch, Job, run_batches
from tokenprobe.extract.listing import list_images
from tokenprobe.extract.plan import make_plan
from tokenprobe.store import BlockKey, open_store

from .backbones.kit import SMALL_CLIP
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


def test_the_padding_of_a_batch_is_in_none_of_its_outputs(tiny_config: MakeConfig) -> None:
    """3 images padded to 5 give 3 rows of patch and prefix tokens and of the embedding: the first of 5 images."""
    config = tiny_config(model="open_clip:ViT-B-32", model_arg=SMALL_CLIP, image_size=[32], split=["test"])
    backbone = load_backbone(config.model, model_arg=SMALL_CLIP, image_size=[32], no_pretrained=True)
    source = open_dataset(config.data)
    plan = make_plan(config, backbone, source, list_images(config, source, backbone.transform), "float32")
    job = Job(config, plan, backbone, source, torch.device("cpu"))
    batches = [Batch(BlockKey("test", 0, 0), rows, 5, [0, 1], True) for rows in (range(3), range(5))]
    (_, padded), (_, full) = run_batches(job, batches)
    for layer, has_embedding in ((0, False), (1, True)):
        assert (padded[layer].embedding is not None) == has_embedding
        for values, of_five in zip(padded[layer], full[layer], strict=True):
            if values is not None:
                torch.testing.assert_close(values, of_five[:3])
