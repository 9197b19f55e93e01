"""Choice of the images that become rows: splits, unreadable images, limits, order."""

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from ..errors import InputError, unknown_name
from ..store.formats import store_files
from ..store.layout import check_split_name
from ..store.manifest import Manifest
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
        limits = _limits(config, split)
        skipped = _known_unreadable(config, split, images, limits) if config.skip_bad_images else None
        chosen[split] = _chosen(config, source, split, images, skipped or [], limits)
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
        if _known_unreadable(config, split, chosen.listed, chosen.limits) is None:
            skipped = _unreadable(config, source, split, chosen, transform)
            left[split] = _chosen(config, source, split, chosen.listed, skipped, chosen.limits)
    return left


def _chosen(
    config: ExtractConfig,
    source: ImageSource,
    split: str,
    images: ImageList,
    skipped: list[str],
    limits: list[int | None],
) -> ChosenImages:
    rows = _choose(config, images, set(skipped), limits)
    if not len(rows):
        advice = "; name others with --split to leave it out" if len(source.splits) > 1 else ""
        raise InputError(f"split {split!r} of {config.data!r} has no {'readable ' * bool(skipped)}images{advice}")
    n_listed = min(len(images.ids), limits[0] or len(images.ids))
    return ChosenImages(rows, n_listed, images, skipped, limits)


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


def _choose(config: ExtractConfig, images: ImageList, skipped: Set[str], limits: Sequence[int | None]) -> SplitRows:
    shuffled = config.row_order == "shuffled"
    earlier = [limit for limit in limits[:-1] if limit is not None]
    return choose_rows(images, skipped, limits[-1], shuffled=shuffled, seed=config.seed, earlier=earlier)


def _known_unreadable(
    config: ExtractConfig, split: str, images: ImageList, limits: Sequence[int | None]
) -> list[str] | None:
    """Return the ids of unreadable images that an existing store lists; None if no store has looked for them."""
    known = _stored_manifest(config)
    info = known.splits.get(split) if known else None
    if known is None or info is None or info.source != images.content or info.limits != limits:
        return None
    return info.skipped if info.skipped or known.complete else None


def with_stored_views(config: ExtractConfig) -> ExtractConfig:
    """Return settings with as many views as an existing store has, and with its crops. Fewer would leave holes."""
    known = _stored_manifest(config)
    stored = {} if known is None else known.splits
    wanted = [info for split, info in stored.items() if not config.split or split in config.split]
    most = max(wanted, key=lambda info: info.views, default=None)
    if most is None or most.augmentation is None or most.views <= config.views:
        return config
    logger.info(f"the store has {most.views} views of its training images, so this command makes {most.views} too")
    crops = {f"view_{name}": most.augmentation[name] for name in ("scale", "ratio")}
    drawn = {name: value for name, value in crops.items() if name not in config.not_default}  # others are compared
    return replace(config, views=most.views, **drawn)


def _stored_manifest(config: ExtractConfig) -> Manifest | None:
    files = store_files(config.out)
    return files.read_manifest() if files.exists() and not config.overwrite else None


def _limits(config: ExtractConfig, split: str) -> list[int | None]:
    """Return the limits that a split had, and the one that it gets.

    A larger limit makes the split grow. A limit that it had before stands for the present one, so an earlier command
    can be given again.
    """
    known = _stored_manifest(config)
    info = known.splits.get(split) if known else None
    if info is None or info.limit is None or info.limit["seed"] != config.seed:
        return [config.limit]
    if config.limit in info.limits:
        if config.limit != info.limits[-1]:
            logger.info(f"split {split!r} has grown beyond --limit {config.limit}: all its images are kept")
        return info.limits
    grows = info.limits[-1] is not None and (config.limit is None or config.limit > info.limits[-1])
    if grows:
        new = "all images" if config.limit is None else f"{config.limit:,} images"
        logger.info(f"split {split!r} grows from at most {info.limits[-1]:,} images to {new}")
    return [*info.limits, config.limit] if grows else [config.limit]


def _unreadable(
    config: ExtractConfig, source: ImageSource, split: str, chosen: ChosenImages, transform: Transform
) -> list[str]:
    """Decode all images and return the ids of the unreadable ones."""
    logger.info(f"looking for unreadable images in {split!r}: every image is decoded once more")
    readable: set[str] = set()
    skipped: set[str] = set()
    while True:  # under a limit, other images replace those left out
        rows = _choose(config, chosen.listed, skipped, chosen.limits)
        unknown = Wanted(split, [row for row, key in enumerate(rows.ids) if key not in readable])
        decoded = RowImages(source, {split: rows}, transform, augmentation_of(config))
        bad = find_bad_images(decoded, unknown, workers=n_workers(config.workers))
        if not bad:
            return sorted(skipped)
        for image in bad:
            logger.warning(f"left out {image.split}/{image.id}: {image.reason}")
        skipped |= {image.id for image in bad}
        readable |= set(rows.ids) - skipped
