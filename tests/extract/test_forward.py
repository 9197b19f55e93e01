"""Forward passes: their batches, their precision and their padding."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from tokenprobe.errors import InputError
from tokenprobe.extract import extract
from tokenprobe.extract.backbones import load_backbone
from tokenprobe.extract.datasets import open_dataset
from tokenprobe.extract.forward import Batch, Job, explained_memory, images_per_second, run_batches
from tokenprobe.extract.listing import list_images
from tokenprobe.extract.plan import make_plan
from tokenprobe.store import BlockKey, open_store

from ..conftest import TINY_VIT
from .backbones.kit import SMALL_CLIP
from .kit import MakeConfig, hooked, made_vit, pixels_by_hand


@contextmanager
def passes() -> Iterator[list[int]]:
    """Note the batch size of every forward pass of a timm transformer."""
    seen: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, PatchEmbed):
            seen.append(len(inputs[0]))

    handle = register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize(("split", "batch_size", "n_passes", "size"), [("test", 4, 8, 3), ("train", 5, 17, 4)])
def test_every_forward_pass_has_the_full_batch_size(
    tiny_config: MakeConfig, split: str, batch_size: int, n_passes: int, size: int
) -> None:
    """Kernels may round differently at another size.

    Blocks of 3 images are cut into batches of 3, not padded to 4. Blocks of 7 images, and a last one of 4, are cut into
    batches of 4, of which one in two has an image to pad; of batches of 5 three in five images would be padding.
    """
    with passes() as seen:
        extract(tiny_config(split=[split], batch_size=batch_size))
    assert seen[-n_passes:] == [size] * n_passes


@pytest.mark.parametrize(("batch_size", "n_images"), [(4, 4), (64, 8)])
def test_the_speed_is_that_of_a_second_pass(tiny_config: MakeConfig, batch_size: int, n_images: int) -> None:
    config = tiny_config(batch_size=batch_size)
    backbone = load_backbone(config.model, model_arg=TINY_VIT, no_pretrained=True)
    start = time.perf_counter()
    with passes() as seen:
        speed = images_per_second(backbone, config, torch.device("cpu"), "float32")
    assert seen == [n_images] * 2
    assert speed > n_images / (time.perf_counter() - start)


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
    plan = make_plan(config, backbone, source, list_images(config, source), "float32")
    job = Job(config, plan, backbone, source, torch.device("cpu"))
    batches = [Batch(BlockKey("test", 0, 0), rows, 5, [0, 1], True) for rows in (range(3), range(5))]
    (_, padded), (_, full) = run_batches(job, batches)
    for layer, has_embedding in ((0, False), (1, True)):
        assert (padded[layer].embedding is not None) == has_embedding
        for values, of_five in zip(padded[layer], full[layer], strict=True):
            if values is not None and of_five is not None:
                torch.testing.assert_close(values, of_five[:3])


def test_a_lack_of_memory_says_what_to_do_and_other_errors_are_not_taken_for_one() -> None:
    message = "^a batch of 64 images does not fit in memory; give a smaller --batch-size$"
    with pytest.raises(InputError, match=message), explained_memory(64):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="must match") as caught, explained_memory(64):
        torch.zeros(2) + torch.zeros(3)
    assert not isinstance(caught.value, InputError)
    with pytest.raises(RuntimeError, match="illegal") as caught, explained_memory(64):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    assert not isinstance(caught.value, InputError)
