"""`wds:PATTERN[?val=PATTERN&test=PATTERN&label=cls&image=…]`: samples in tar files, as WebDataset writes them.

A pattern is a path with braces, `train-{00..15}.tar` or `{a,b}.tar`, or with `*`. Its samples are the split train;
options name other splits. No file states the number of samples, so the headers of all tars are read once, one tar per
core at a time. After that, images are read in any order, each from its position in the tar.
"""

import logging
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from multiprocessing import get_context
from typing import NamedTuple

from PIL import Image
from xxhash import xxh3_128

from ...errors import InputError
from ...runtime.text import counted
from ...runtime.workers import leave_signals_to_the_main_process, n_cores
from ..progress import CountProgress
from .classes import check_labelled, index_classes
from .contract import ImageList
from .files import EXTENSIONS, check_no_pointer, decode_image, is_utf8
from .options import absolute, join_options, split_options
from .tar_patterns import find_tars

logger = logging.getLogger(__name__)

TRAIN, OTHER_SPLITS = "train", ("val", "test")
LABEL = "cls"
META = re.compile(r"__[^/]*__($|/)")
"""Members that the format reserves."""
NAME = re.compile(r"((?:.*/|)[^./]+)\.([^/]*)")
"""A member's name: the key of its sample, up to the first dot of the file name, and its suffix."""
MAX_LABEL_BYTES = 2**16
CHUNK_BYTES = 2**20
NO_MARK = "has no end-of-archive mark: if it was cut short, samples are missing; compare its size with the original's"
MORE_DATA = (
    "has data after its end-of-archive mark: if several tars were joined, the first alone is read; keep them apart"
)


class Place(NamedTuple):
    """Position of a member's bytes in its tar."""

    offset: int
    size: int


class Sample(NamedTuple):
    """An image in a tar, and its label as text.

    Attributes:
        key: beginning of its members' names.
        tar: path of the tar.
        image: position of the image.
        label: label of the sample.
    """

    key: str
    tar: str
    image: Place
    label: str


class Content(NamedTuple):
    """What was read of a tar.

    Attributes:
        samples: all of them, in the order of the tar.
        odd_end: `NO_MARK` or `MORE_DATA`; "" if the tar ends as it should.
    """

    samples: list[Sample]
    odd_end: str


class Wanted(NamedTuple):
    """Suffixes of a sample's members: the label's, and the image's, or None if a sample has only one image."""

    label: str
    image: str | None


class TarImages:
    """Samples in tars on this machine."""

    upright = False

    def __init__(self, argument: str) -> None:
        """Read the headers of all tars.

        Raises:
            MissingError: no tar matches a pattern.
            InputError: a pattern stands for no files or too many; a file is not a plain tar; a sample does not have
                exactly one image and one label.
        """
        pattern, options = split_options("wds", argument, [*OTHER_SPLITS, "label", "image"])
        patterns = {TRAIN: pattern} | {split: options[split] for split in OTHER_SPLITS if split in options}
        suffixes = {key: options[key].removeprefix(".").lower() for key in ("label", "image") if key in options}
        wanted = Wanted(suffixes.get("label", LABEL), suffixes.get("image"))
        self.name = f"wds:{os.path.basename(pattern)}"
        places = {split: absolute(options[split]) for split in OTHER_SPLITS if split in options}
        self.spec = "wds:" + join_options(absolute(pattern), options | places)
        self.splits: Sequence[str] = sorted(patterns)
        tars = {split: find_tars(pattern) for split, pattern in patterns.items()}
        n_tars = sum(map(len, tars.values()))
        logger.info(f"{self.name}: reading the headers of {counted(n_tars, 'tar file')}")
        contents = {split: _read_all(of_split, wanted) for split, of_split in tars.items()}
        for split, of_split in contents.items():
            _warn_of_odd_ends(tars[split], of_split)
        self._samples = {split: [each for one in contents[split] for each in one.samples] for split in contents}
        texts = {split: [sample.label for sample in samples] for split, samples in self._samples.items()}
        self._labels, self.classes = index_classes(texts, repr(self.spec))

    def images(self, split: str) -> ImageList:
        """List a split, tar by tar. Ids are the samples' keys, after the tar's name if some keys occur twice.

        Raises:
            InputError: a sample has no label, or occurs twice in one tar or in two tars with the same name.
        """
        samples, labels = self._samples[split], self._labels[split]
        check_labelled(labels, split, repr(self.spec))
        ids = [sample.key for sample in samples]
        if len(set(ids)) < len(ids):
            ids = [f"{os.path.basename(sample.tar)}/{sample.key}" for sample in samples]
        twice = next((key for key, n in Counter(ids).items() if n > 1), None)
        if twice is not None:
            raise InputError(
                f"sample {twice!r} occurs more than once in split {split!r} of {self.spec!r}; each sample needs its "
                "own key"
            )
        content = xxh3_128()
        for key, sample in zip(ids, samples, strict=True):
            content.update(f"{key} {sample.image.size} {sample.label}\n".encode())
        return ImageList(ids, labels, content.hexdigest())

    def load(self, split: str, index: int) -> Image.Image:
        """Read one image from its tar and decode it."""
        sample = self._samples[split][index]
        with open(sample.tar, "rb") as file:
            return decode_image(BytesIO(_read(file.fileno(), sample.image)))


def _read_all(tars: Sequence[str], wanted: Wanted) -> list[Content]:
    n_processes = min(len(tars), n_cores())
    if n_processes == 1:
        return [read_samples(tar, wanted) for tar in tars]
    with ProcessPoolExecutor(n_processes, get_context("fork"), leave_signals_to_the_main_process) as pool:
        read, contents = pool.map(read_samples, tars, [wanted] * len(tars)), list[Content]()  # forks the processes
        with CountProgress("read", len(tars), "tars") as progress:
            for content in read:
                contents.append(content)
                progress.advance()
        return contents


def _warn_of_odd_ends(tars: Sequence[str], contents: Sequence[Content]) -> None:
    """Warn once per kind of end. Tars without a mark are common where programs stream or join them."""
    for odd_end in (NO_MARK, MORE_DATA):
        named = [tar for tar, content in zip(tars, contents, strict=True) if content.odd_end == odd_end]
        if named:
            others = f" (and {counted(len(named) - 1, 'other tar')})" if len(named) > 1 else ""
            logger.warning(f"{named[0]!r}{others} {odd_end}")


def read_samples(tar: str, wanted: Wanted) -> Content:
    """Return the content of a tar; only headers and labels are read.

    Raises:
        InputError: the file is damaged or not a plain tar, or a sample does not have exactly one image and one label.
    """
    samples = []
    try:
        with open(tar, "rb") as file, tarfile.open(fileobj=file, mode="r:") as members:
            for key, places in _grouped(members, tar):
                image, label = _choose(key, places, wanted, tar)
                samples.append(Sample(key, tar, image, _label(file.fileno(), label, f"sample {key!r} of {tar!r}")))
            odd_end = _odd_end(file.fileno(), members.offset)
    except (OSError, InputError):
        raise
    except Exception as error:  # tarfile raises many kinds for damaged headers, RecursionError among them
        check_no_pointer(tar)
        reason = error or type(error).__name__
        raise InputError(
            f"{tar!r} is not a whole, plain tar file ({reason}); a compressed tar cannot be read from the middle; "
            "decompress it"
        ) from error
    return Content(samples, odd_end)


def _grouped(members: tarfile.TarFile, tar: str) -> Iterator[tuple[str, dict[str, Place]]]:
    """Yield each sample's key and its members by suffix: neighbours with the same name up to the first dot."""
    last, places = None, dict[str, Place]()
    for member in members:
        name = NAME.fullmatch(member.name)
        if member.size < 0:  # tarfile would read the same headers for ever
            raise tarfile.ReadError(f"member {member.name!r} has {member.size} bytes")
        if not member.isreg() or name is None or META.match(member.name):
            continue
        key, suffix = name[1], name[2].lower()
        if "\0" in key or not is_utf8(key):
            raise InputError(f"the name of member {member.name!r} of {tar!r} is not text in UTF-8; rename it")
        if key != last:
            if last is not None:
                yield last, places
            last, places = key, {}
        if suffix in places:
            raise InputError(f"sample {key!r} of {tar!r} has two members .{suffix}; each sample needs its own key")
        places[suffix] = Place(member.offset_data, member.size)
    if last is not None:
        yield last, places


def _choose(key: str, places: Mapping[str, Place], wanted: Wanted, tar: str) -> tuple[Place, Place]:
    """Return the positions of a sample's image and label."""
    images = [suffix for suffix in places if f".{suffix.rpartition('.')[2]}" in EXTENSIONS]
    if wanted.image is not None:
        images = [wanted.image] if wanted.image in places else []
    if len(images) != 1 or wanted.label not in places:
        expected = f".{wanted.image}" if wanted.image else "one image"
        raise InputError(
            f"sample {key!r} of {tar!r} has the members {', '.join(places)}; expected {expected} and the label "
            f".{wanted.label}; name others as image=SUFFIX and label=SUFFIX"
        )
    return places[images[0]], places[wanted.label]


def _label(file: int, place: Place, where: str) -> str:
    """Return the label in a member."""
    try:
        if place.size <= MAX_LABEL_BYTES:
            return _read(file, place).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        pass
    raise InputError(f"the label of {where} is not text, or too long; name another member as label=SUFFIX")


def _odd_end(file: int, offset: int) -> str:
    """Say what is odd about the end of a tar; "" if nothing is.

    tarfile stops silently at a damaged header, at the end of the file, and at the first block of zeros.

    Raises:
        ReadError: there are data where the headers end.
    """
    block = os.pread(file, tarfile.BLOCKSIZE, offset)
    if block.strip(b"\0"):
        raise tarfile.ReadError(f"no member's header at byte {offset}")
    if len(block) < tarfile.BLOCKSIZE:
        return NO_MARK
    while part := os.pread(file, CHUNK_BYTES, offset):
        if part.count(0) < len(part):
            return MORE_DATA
        offset += len(part)
    return ""


def _read(file: int, place: Place) -> bytes:
    data = os.pread(file, place.size, place.offset)
    if len(data) < place.size:
        raise EOFError(f"only {len(data)} of {place.size} bytes at {place.offset}; the tar was cut short")
    return data
