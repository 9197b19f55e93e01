"""`wds:PATTERN[?val=PATTERN&test=PATTERN&label=cls&image=…]`: samples in tar files, as WebDataset writes them.

A pattern is a path with braces, `train-{00..15}.tar` or `{a,b}.tar`, or with `*`; its samples are one split,
train, beside those that options name. No file says how many there are, so the headers of all tars are read once, one
tar per core at a time. From then on every image is read from where it lies, in any order.
"""

import glob
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from itertools import product
from multiprocessing import get_context
from typing import NamedTuple

from PIL import Image
from xxhash import xxh3_128

from ...errors import InputError, MissingError
from ...runtime.console import plural, say
from ...runtime.workers import leave_signals_to_the_main_process, n_cores
from .classes import check_labelled, index_classes
from .contract import ImageList
from .files import EXTENSIONS
from .options import absolute, join_options, split_options

TRAIN, OTHER_SPLITS = "train", ("val", "test")
LABEL = "cls"
META = re.compile(r"__[^/]*__($|/)")
"""Members that the format sets aside."""


class Place(NamedTuple):
    """Where a member's bytes are."""

    offset: int
    size: int


class Sample(NamedTuple):
    """An image in a tar, and its label as text.

    Attributes:
        key: beginning of its members' names.
        tar: path.
        image: its bytes.
        label: of the sample.
    """

    key: str
    tar: str
    image: Place
    label: str


class Wanted(NamedTuple):
    """Suffixes of a sample's members: of the label, and of the image, or None for the only image there is."""

    label: str
    image: str | None


class TarImages:
    """Samples in tars on this machine."""

    def __init__(self, argument: str) -> None:
        """Read the headers of all tars.

        Raises:
            MissingError: no tar matches a pattern.
            InputError: a file is no plain tar, or a sample has not one image and one label.
        """
        pattern, options = split_options("wds", argument, [*OTHER_SPLITS, "label", "image"])
        patterns = {TRAIN: pattern} | {split: options[split] for split in OTHER_SPLITS if split in options}
        wanted = Wanted(options.get("label", LABEL), options.get("image"))
        self.name = f"wds:{os.path.basename(pattern)}"
        places = {split: absolute(options[split]) for split in OTHER_SPLITS if split in options}
        self.spec = "wds:" + join_options(absolute(pattern), options | places)
        self.splits: Sequence[str] = sorted(patterns)
        tars = {split: find_tars(pattern) for split, pattern in patterns.items()}
        n_tars = sum(map(len, tars.values()))
        say(f"{self.name}: reading the headers of {n_tars} tar {plural(n_tars, 'file')}")
        self._samples = {split: _read_all(of_split, wanted) for split, of_split in tars.items()}
        texts = {split: [sample.label for sample in samples] for split, samples in self._samples.items()}
        self._labels, self.classes = index_classes(texts, repr(self.spec))

    def images(self, split: str) -> ImageList:
        """List a split, tar by tar; ids are the samples' keys, behind the tar's name if some occur twice.

        Raises:
            InputError: a sample has no label, or occurs twice in one tar, or in two of one name.
        """
        samples, labels = self._samples[split], self._labels[split]
        check_labelled(labels, split, repr(self.spec))
        ids = [sample.key for sample in samples]
        if len(set(ids)) < len(ids):
            ids = [f"{os.path.basename(sample.tar)}/{sample.key}" for sample in samples]
        twice = next((key for key, n in Counter(ids).items() if n > 1), None)
        if twice is not None:
            raise InputError(
                f"sample {twice!r} is more than once in split {split!r} of {self.spec!r}; keys tell them apart"
            )
        content = xxh3_128()
        for key, sample in zip(ids, samples, strict=True):
            content.update(f"{key} {sample.image.size} {sample.label}\n".encode())
        return ImageList(ids, labels, content.hexdigest())

    def load(self, split: str, index: int) -> Image.Image:
        """Read one image from its tar and decode it."""
        sample = self._samples[split][index]
        with open(sample.tar, "rb") as file, Image.open(BytesIO(_read(file.fileno(), sample.image))) as image:
            image.load()
            return image


def find_tars(pattern: str) -> list[str]:
    """Return the files that a pattern stands for, in its order; those of a "*" by name.

    Raises:
        MissingError: one of them is not there.
    """
    tars = []
    for name in expand_braces(pattern):
        found = sorted(glob.glob(name)) if "*" in name else [name] if os.path.isfile(name) else []
        if not found:
            raise MissingError(f"no file at {name!r}; asked for tars at {pattern!r}, on this machine")
        tars += found
    return tars


def expand_braces(pattern: str) -> list[str]:
    """Return the texts that "a{00..15}b{x,y}" stands for: numbers keep the width of the first."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [[part] if place % 2 == 0 else _choices(part) for place, part in enumerate(parts)]
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(part: str) -> list[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", part)
    if numbers is None:
        return part.split(",")
    first, last = numbers.groups()
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]


def _read_all(tars: Sequence[str], wanted: Wanted) -> list[Sample]:
    n_processes = min(len(tars), n_cores())
    if n_processes == 1:
        return [sample for tar in tars for sample in read_samples(tar, wanted)]
    with ProcessPoolExecutor(n_processes, get_context("fork"), leave_signals_to_the_main_process) as pool:
        return [sample for samples in pool.map(read_samples, tars, [wanted] * len(tars)) for sample in samples]


def read_samples(tar: str, wanted: Wanted) -> list[Sample]:
    """Return the samples of a tar, of which only headers and labels are read.

    Raises:
        InputError: it is no plain tar, or a sample has not one image and one label.
    """
    samples = []
    try:
        with open(tar, "rb") as file, tarfile.open(fileobj=file, mode="r:") as members:
            for key, places in _grouped(members):
                image, label = _choose(key, places, wanted, tar)
                samples.append(Sample(key, tar, image, _read(file.fileno(), label).decode().strip()))
    except (tarfile.TarError, EOFError) as error:
        raise InputError(
            f"{tar!r} is not a whole, plain tar file ({error}); a compressed one cannot be read from the middle: "
            "decompress it"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"a label in {tar!r} is no text: member .{wanted.label} of {key!r}; name another as label="
        ) from error
    return samples


def _grouped(members: tarfile.TarFile) -> Iterator[tuple[str, dict[str, Place]]]:
    """Yield each sample's key and its members by suffix: neighbours whose names agree up to the first dot."""
    last, places = None, dict[str, Place]()
    for member in members:
        name = re.fullmatch(r"((?:.*/|)[^./]+)\.([^/]*)", member.name)
        if not member.isreg() or name is None or META.match(member.name):
            continue
        key, suffix = name.groups()
        if key != last:
            if last is not None:
                yield last, places
            last, places = key, {}
        places[suffix.lower()] = Place(member.offset_data, member.size)
    if last is not None:
        yield last, places


def _choose(key: str, places: Mapping[str, Place], wanted: Wanted, tar: str) -> tuple[Place, Place]:
    """Return where a sample's image and label are."""
    images = [suffix for suffix in places if f".{suffix.rpartition('.')[2]}" in EXTENSIONS]
    if wanted.image is not None:
        images = [wanted.image] if wanted.image in places else []
    if len(images) != 1 or wanted.label not in places:
        expected = f".{wanted.image}" if wanted.image else "one image"
        raise InputError(
            f"sample {key!r} of {tar!r} has the members {', '.join(places)}; expected {expected} and the label "
            f".{wanted.label}: name others as image=SUFFIX and label=SUFFIX"
        )
    return places[images[0]], places[wanted.label]


def _read(file: int, place: Place) -> bytes:
    data = os.pread(file, place.size, place.offset)
    if len(data) < place.size:
        raise EOFError(f"{len(data)} of {place.size} bytes at {place.offset}; the tar was cut")
    return data
