"""Settings that make long names: planned, saved, and found again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tokenprobe.probe import FitConfig, fit, load_head
from tokenprobe.store import Store

N_LAYERS = 70


def test_seventy_layers_are_joined_and_the_head_is_found_by_its_name(
    write_store: Callable[..., Store], tmp_path: Path
) -> None:
    labels = {"train": np.arange(24) % 3, "test": np.arange(9) % 3}
    rng = np.random.default_rng(0)
    tokens = {
        split: {
            layer: {"mean": rng.normal(size=(len(y), 2)).astype(np.float32), "patch": np.zeros((len(y), 1, 2), "f2")}
            for layer in range(N_LAYERS)
        }
        for split, y in labels.items()
    }
    store = write_store(
        tmp_path / "s.zarr", tokens, labels, grid=(1, 1), block_rows=24, model="timm:" + "long_name" * 30
    )
    joined = "+".join(map(str, range(N_LAYERS)))
    for epochs in (1, 1):
        run = fit(
            store.path,
            FitConfig(
                out=tmp_path / "run", layers=joined, heads=["linear", "ridge"], lr=[0.1], epochs=epochs, device="cpu"
            ),
        )
    assert len(run.results) == 1 + 10 and set(run.results["layer"]) == {joined}
    for cell in run.results["cell"]:
        assert load_head(run.path, cell).pooling.dim == 2 * N_LAYERS
