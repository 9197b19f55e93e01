"""Shared by the tests of extraction: small models, forward passes by hand, the files of a store."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from safetensors.torch import save_file
from timm.models import VisionTransformer
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode

from tokenprobe.extract import ExtractConfig
from tokenprobe.extract.datasets import ImageSource
from tokenprobe.store import Store

from ..conftest import TINY_VIT

MakeConfig = Callable[..., ExtractConfig]

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NOT_INPUTS_ALONE = {"journal.jsonl", ".lock"}
BAD = "bee/07.png"
"""The image of `broken_folder` that is truncated."""


def digests(store: str | Path) -> dict[str, str]:
    """Hash every file whose bytes depend on the inputs alone."""
    files = [file for file in Path(store).rglob("*") if file.is_file() and file.name not in NOT_INPUTS_ALONE]
    return {str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def finished(store: str | Path) -> set[str]:
    """Names of the block files that the journal records, without a torn last line."""
    journal = Path(store) / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    return {entry["file"] for entry in map(json.loads, lines) if re.search(r"/c\.\d+\.", entry.get("file", ""))}


def block_of(name: str) -> tuple[str, str, str]:
    """Return (split, layer, block) of a file such as "train/layer_05/patch/c.0.3.0.0"."""
    split, layer, _, chunk = name.split("/")
    return split, layer, chunk.split(".")[2]


def journal_of(store: Store) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(store.path) / "journal.jsonl").read_text().splitlines()]


def made_vit(path: Path, **changes: Any) -> VisionTransformer:
    """Build a model in which every layer matters, and save its weights."""
    torch.manual_seed(5)
    model = VisionTransformer(num_classes=0, **TINY_VIT | changes).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    save_file(model.state_dict(), path)
    return model


def pixels_by_hand(file: Path) -> Tensor:
    """timm's default: short side to 16 / 0.875, bicubic, centre crop, ImageNet's mean and standard deviation."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    cropped = TF.center_crop(TF.resize(image, [18], InterpolationMode.BICUBIC), [16, 16])
    return TF.normalize(TF.to_tensor(cropped), IMAGENET_MEAN, IMAGENET_STD)


def hooked(modules: Iterable[nn.Module], model: nn.Module, images: Tensor) -> list[np.ndarray]:
    outputs: list[np.ndarray] = []
    handles = [m.register_forward_hook(lambda *seen: outputs.append(seen[2].float().numpy())) for m in modules]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return outputs


def assert_rounded(stored: np.ndarray, exact: np.ndarray) -> None:
    """Half a unit in float16's last place is 2**-11; float32 sums of another batch size differ by some 1e-6."""
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored.astype(np.float32), exact, rtol=2**-11, atol=1e-5)


class DiskUsage(NamedTuple):
    total: int
    used: int
    free: int


def sizes_on_disk(out: str | Path) -> Counter[str]:
    """Bytes of the chunk files of each layer, over all splits."""
    sizes: Counter[str] = Counter()
    for file in Path(out).glob("*/layer_*/*/c.*"):
        sizes[file.parts[-3]] += file.stat().st_size
    return sizes


def shown(lines: str) -> dict[str, str]:
    """Read "name      value" lines."""
    return {name.strip(): value for name, value in re.findall(r"^(.{10}) (.*)$", lines, re.MULTILINE)}


def for_people(n_bytes: int) -> str:
    return f"{n_bytes} B" if n_bytes < 1000 else f"{n_bytes / 1000:#.3g}".removesuffix(".") + " kB"


class CountingSource:
    """A wrapper of a source that counts the decoded images."""

    def __init__(self, source: ImageSource) -> None:
        self._source, self.n_loads = source, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def load(self, split: str, index: int) -> Image.Image:
        self.n_loads += 1
        return self._source.load(split, index)
