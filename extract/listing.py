"""Choice of the images that become rows: splits, unreadable images, limits, order."""

import logging
from collections.abc import Mapping, Set

from ..errors import InputError, unknown_name
from ..store.formats import store_files
from ..store.layout import check_split_name
from .config import ExtractConfig
from .datasets import ImageList, ImageSource
from .loading import RowImages, Wanted, find_bad_images, n_workers
from .odd_classes import odd_classes
from .plan import ChosenImages, augmentation_of, views_of
from .rows import SplitRows, choose_rows
from .views import Transform

logger = logging.getLogger(__name__)


def list_images(config: ExtractConfig, source: ImageSource) -> dict[str, ChosenImages]:
    """List each wanted split and choose its rows, without decoding any image.

    With `skip_bad_images`, the rows leave out images that an existing store lists as unreadable; `leave_out_unreadable`
    finds the others.

    Raises:
        InputError: a split is unknown or empty, or its name is not allowed in a store; or several views are wanted and
            no split is for training.
    """
    chosen = {}
    for split in _splits(config, source):
        images = source.images(split)
        skipped = _known_unreadable(config, split, images) if config.skip_bad_images else None
        chosen[split] = _chosen(config, source, split, images, skipped or [])
    labels, kept = ({s: getattr(c, part).labels for s, c in chosen.items()} for part in ("listed", "rows"))
    for line in odd_classes(labels, kept, source.classes):
        logger.warning(line)
    return chosen


def leave_out_unreadable(
    config: ExtractConfig, source: ImageSource, listed: Mapping[str, ChosenImages], transform: Transform
) -> dict[str, ChosenImages]:
    """Decode all images of splits that no store has checked, and leave out the unreadable ones.

    Args:
        config: settings of the extraction.
        source: source of the images.
        listed: result of `list_images`.
        transform: transform of view 0.

    Raises:
        InputError: no image of a split can be read.
    """
    left = dict(listed)
    for split, chosen in listed.items():
        if _known_unreadable(config, split, chosen.listed) is None:
            skipped = _unreadable(config, source, split, chosen.listed, transform)
            left[split] = _chosen(config, source, split, chosen.listed, skipped)
    return left


def _chosen(
    config: ExtractConfig, source: ImageSource, split: str, images: ImageList, skipped: list[str]
) -> ChosenImages:
    rows = _choose(config, images, set(skipped))
    if not len(rows):
        advice = "; name others with --split to leave it out" if len(source.splits) > 1 else ""
        raise InputError(f"split {split!r} of {config.data!r} has no {'readable ' * bool(skipped)}images{advice}")
    n_listed = min(len(images.ids), config.limit or len(images.ids))
    return ChosenImages(rows, n_listed, images, skipped)


def _splits(config: ExtractConfig, source: ImageSource) -> list[str]:
    splits = config.split or list(source.splits)
    for split in splits:
        if split not in source.splits:
            raise unknown_name(f"split of {config.data!r}", split, source.splits)
        try:
            check_split_name(split)
        except InputError as error:
            raise InputError(f"{config.data!r}: {error}, or name others with --split to leave it out") from error
    if config.views > 1 and all(views_of(split, config) == 1 for split in splits):
        raise InputError(
            f"--views {config.views} needs a split whose name begins with 'train', and there are only "
            f"{', '.join(splits)}; other splits have view 0 alone, so extract them with --views 1"
        )
    return splits


def _choose(config: ExtractConfig, images: ImageList, skipped: Set[str]) -> SplitRows:
    shuffled = config.row_order == "shuffled"
    return choose_rows(images, skipped, config.limit, shuffled=shuffled, seed=config.seed)


def _known_unreadable(config: ExtractConfig, split: str, images: ImageList) -> list[str] | None:
    """Return the ids of unreadable images that an existing store lists; None if no store lists any."""
    files = store_files(config.out)
    if files.exists() and not config.overwrite:
        known = files.read_manifest()
        info = known.splits.get(split)
        if info is not None and info.source == images.content and (info.skipped or known.complete):
            return info.skipped
    return None


def _unreadable(
    config: ExtractConfig, source: ImageSource, split: str, images: ImageList, transform: Transform
) -> list[str]:
    """Decode all images and return the ids of the unreadable ones."""
    logger.info(f"looking for unreadable images in {split!r}: every image is decoded once more")
    readable: set[str] = set()
    skipped: set[str] = set()
    while True:  # under a limit, other images replace those left out
        rows = _choose(config, images, skipped)
        unknown = Wanted(split, [row for row, key in enumerate(rows.ids) if key not in readable])
        decoded = RowImages(source, {split: rows}, transform, augmentation_of(config))
        bad = find_bad_images(decoded, unknown, workers=n_workers(config.workers))
        if not bad:
            return sorted(skipped)
        for image in bad:
            logger.warning(f"left out {image.split}/{image.id}: {image.reason}")
        skipped |= {image.id for image in bad}
        readable |= set(rows.ids) - skipped
