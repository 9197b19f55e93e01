"""A store on which every preset runs: four layers, a class token, an embedding, a final norm."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprobe.store import Store

WIDTH, GRID, BLOCK_ROWS, N_CLASSES = 96, (2, 3), 16, 4
N_IMAGES = {"train": 240, "test": 60}
N_LAYERS = 4


@dataclass(frozen=True)
class Made:
    """The store, and all that it holds."""

    store: Store
    tokens: dict[str, dict[int, dict[str, np.ndarray]]]
    labels: dict[str, np.ndarray]
    norm: tuple[np.ndarray, np.ndarray]

    def normed(self, split: str, layer: int, kind: str) -> Tensor:
        """Return tokens after the final norm, computed in float32 as for a fit, then in float64."""
        weight, bias = (torch.from_numpy(values).float() for values in self.norm)
        tokens = torch.from_numpy(self.tokens[split][layer][kind]).float()
        return F.layer_norm(tokens, (WIDTH,), weight, bias, eps=1e-6).double()


@pytest.fixture(scope="session")
def made(write_store: Callable[..., Store], tmp_path_factory: pytest.TempPathFactory) -> Made:
    labels = {name: np.random.default_rng(len(name)).permutation(n) % N_CLASSES for name, n in N_IMAGES.items()}
    tokens = {split: {layer: draw(of_split, layer) for layer in range(N_LAYERS)} for split, of_split in labels.items()}
    rng = np.random.default_rng(7)
    norm = rng.uniform(0.5, 1.5, WIDTH), rng.uniform(-0.5, 0.5, WIDTH)
    kept = {"kind": "LayerNorm", "eps": 1e-6, "weight": norm[0].tolist(), "bias": norm[1].tolist()}
    path: Path = tmp_path_factory.mktemp("presets") / "s.zarr"
    store = write_store(path, tokens, labels, grid=GRID, block_rows=BLOCK_ROWS, final_norm=kept)
    return Made(store, tokens, labels, norm)


def draw(labels: np.ndarray, layer: int) -> dict[str, np.ndarray]:
    centres = np.random.default_rng(9).normal(size=(N_CLASSES, 6, WIDTH)) * 0.3
    patch = np.random.default_rng([len(labels), layer]).normal(size=(len(labels), 6, WIDTH)) + centres[labels]
    arrays = {
        "patch": patch.astype(np.float16),
        "prefix": (patch[:, :1] - 1).astype(np.float16),
        "mean": patch.mean(1).astype(np.float32),
    }
    if layer == N_LAYERS - 1:
        projection = np.random.default_rng(8).normal(size=(WIDTH, 10))
        arrays["embedding"] = (patch.mean(1) @ projection).astype(np.float32)
    return arrays
