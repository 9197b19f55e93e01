"""The backbone and the data of a config, as every process of an extraction loads them."""

import logging
from dataclasses import replace

from .backbones import Backbone, has_published, load_backbone
from .config import ExtractConfig
from .datasets import ImageSource, open_dataset
from .divided import DividedSource
from .views import decoded_as

logger = logging.getLogger(__name__)


def open_source(config: ExtractConfig) -> ImageSource:
    """Open the data, divided if the config says so."""
    source = open_dataset(config.data)
    return source if config.split_fraction is None else DividedSource(source, config.split_fraction, config.seed)


def wants_published(config: ExtractConfig) -> bool:
    """Return whether the backbone of a config has its published weights."""
    return has_published(config.model) and not config.no_pretrained and config.checkpoint is None


def load_configured(config: ExtractConfig, source: ImageSource, *, fetches: bool = True) -> Backbone:
    """Load the backbone, with the transform that the source asks for.

    Args:
        config: settings of the extraction.
        source: the data.
        fetches: whether weights may be downloaded.
    """
    if fetches and wants_published(config):
        logger.info(f"loading {config.model}: its weights are fetched if they are not here yet")
    backbone = load_backbone(
        config.model,
        model_arg=config.model_arg,
        checkpoint=config.checkpoint,
        checkpoint_key=config.checkpoint_key,
        checkpoint_grid=config.checkpoint_grid,
        allow_missing=config.allow_missing,
        no_pretrained=config.no_pretrained,
        seed=config.seed,
        image_size=config.image_size,
        fetches=fetches,
    )
    for line in [*(backbone.loaded.lines() if backbone.loaded else []), *backbone.notes]:
        logger.info(line)
    backbone.transform = replace(decoded_as(config.decode, backbone.transform), upright=source.upright)
    return backbone
