"""Data sources by name. A new one is a file here and a line in `DATASETS`."""

from collections.abc import Callable

from ...errors import unknown_name
from .contract import ImageList, ImageSource
from .from_hf import HfImages
from .from_torchvision import TorchvisionImages
from .image_folder import ImageFolder
from .manifest import open_csv, open_parquet
from .npz import NpzImages, open_demo
from .webdataset_tars import TarImages

__all__ = ["DATASETS", "ImageList", "ImageSource", "open_dataset"]

DATASETS: dict[str, Callable[[str], ImageSource]] = {
    "folder": ImageFolder,
    "torchvision": TorchvisionImages,
    "hf": HfImages,
    "wds": TarImages,
    "csv": open_csv,
    "parquet": open_parquet,
    "npz": NpzImages,
    "demo": open_demo,
}


def open_dataset(spec: str) -> ImageSource:
    """Open "SOURCE:ARGUMENT"; a path alone means "folder:PATH".

    Raises:
        InputError: no such source.
        MissingError: nothing there.
    """
    source, argument = _parts(spec)
    if source not in DATASETS:
        raise unknown_name("data source", source, DATASETS)
    return DATASETS[source](argument)


def _parts(spec: str) -> tuple[str, str]:
    source, colon, argument = spec.partition(":")
    is_path = source != "demo" if not colon else source not in DATASETS and "/" in source
    return ("folder", spec) if is_path else (source, argument)
