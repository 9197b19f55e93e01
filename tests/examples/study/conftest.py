"""The scripts of the study, and a tiny setting for them: 80 images of noise around the colour of their class."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models import VisionTransformer

from .kit import N_TEST, N_TRAIN, SCRIPTS, SEEDS

SIZES: dict[str, Any] = {"img_size": 12, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}


@pytest.fixture(scope="session")
def script() -> Callable[[str], Any]:
    """Return a function that imports a script by its name."""

    def imported(name: str) -> Any:
        with pytest.MonkeyPatch.context() as patched:
            patched.syspath_prepend(str(SCRIPTS))
            return import_module(name)

    return imported


@pytest.fixture(scope="session")
def setting(script: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the setting of a tiny backbone."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, n in (("train", N_TRAIN), ("test", N_TEST)):
        labels = np.arange(n) % 4
        pixels = rng.integers(0, 120, (n, 12, 12, 3)) + 40 * labels[:, None, None, None]
        arrays |= {f"x_{split}": pixels.astype(np.uint8), f"y_{split}": labels}
    np.savez(folder / "tiny.npz", **arrays)
    torch.manual_seed(1)
    arch = f"VisionTransformer({', '.join(f'{key}={value}' for key, value in SIZES.items())})"
    metadata = {"arch": arch, "mean": "[0.5, 0.5, 0.5]", "std": "[0.25, 0.25, 0.25]"}
    weights = VisionTransformer(**SIZES).state_dict()
    for name in weights:
        if name.startswith("blocks.") and weights[name].ndim == 2:
            weights[name] *= 20  # as they are drawn, a block passes on nearly what it gets, and layers are equal
    save_file(weights, folder / "made.safetensors", metadata)
    return script("setting").Study(
        name="", data=f"npz:{folder / 'tiny.npz'}", model="timm:VisionTransformer", weights=folder / "made.safetensors",
        image_size=[], out=folder, page=folder / "page.md", n_train=N_TRAIN, n_test=N_TEST, seeds=SEEDS, epochs=5,
        lr=[1.0, 10.0], heads=[],
    )  # fmt: skip


@pytest.fixture(scope="session")
def run_script(script: Callable[[str], Any], setting: Any) -> Callable[..., Any]:
    """Return a function that runs a script with given heads on a page of its own, and returns its study."""

    def ran(name: str, heads: list[str]) -> Any:
        page = setting.out / f"{name}.md"
        page.write_text(f"before\n\n<!-- {name} tiny-made -->\nold table\n<!-- end -->\n\nafter\n")
        study = replace(setting, name=name, heads=heads, page=page)
        script(name).main(study)
        return study

    return ran
