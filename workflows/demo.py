"""`probe demo`: both stages on the images and weights that come with the package, without a network."""

import logging
import time
from importlib.resources import as_file, files
from pathlib import Path

from ..extract import ExtractConfig, extract
from ..probe import FitConfig, fit
from ..probe.run.results import Run
from ..runtime.text import time_text
from ..store.outputs import check_folder

logger = logging.getLogger(__name__)

WEIGHTS = "fashion_mae_vit128d6p4.safetensors"
ARCHITECTURE = {"img_size": 28, "patch_size": 4, "embed_dim": 128, "depth": 6, "num_heads": 4}
HEADS = ["ep:queries=8", "linear:pool=cls", "linear:pool=mean"]


def run_demo(out: str | Path) -> Run:
    """Extract six layers of a small masked autoencoder on 7,000 images, and probe each with three heads.

    Args:
        out: folder for the store and the run; a second call continues there.

    Returns:
        The run.
    """
    start, folder = time.monotonic(), check_folder(out)
    store = check_folder(folder / "fashion_mae.zarr")
    with as_file(files("tokenprobe") / "assets" / WEIGHTS) as weights:
        logger.info(f"1/2  a masked autoencoder reads 5,000 + 2,000 Fashion-MNIST images, once -> {store}")
        extract(
            ExtractConfig(
                model="timm:VisionTransformer", model_arg=ARCHITECTURE, checkpoint=weights, data="demo", out=store
            )
        )
    logger.info("2/2  three heads on each of six layers, six learning rates each, all from the stored tokens")
    run = fit(store, FitConfig(out=folder / "run", heads=HEADS, epochs=30))
    logger.info(f"done in {time_text(time.monotonic() - start)}")
    return run
