"""Damaged and hostile stores of both formats: with any content in a file, every error is one line.

`pytest tests/store/test_fuzz.py --hypothesis-profile=random` tries other examples each time.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprobe.errors import TokenprobeError
from tokenprobe.store import open_store
from tokenprobe.store.describe import describe
from tokenprobe.store.formats import store_files
from tokenprobe.store.verify import verify
from tokenprobe.testing.store_kit import SUFFIXES, Contents, folder_of, make_contents, root_of, write

EVIL_TEXTS = ["", "..", "../../esc", "/abs", "a/b", "\x00", "\x1b[31m", "\n", "\ud800", "x" * 300, "layer_00", "test"]
EVIL_NUMBERS = [0, 1, -1, 2, 7, 2**31, 2**40, 2**63, 2**64, 10**30, 0.5, 1e308, float("nan"), float("inf")]
RECIPE = ("model", "model_args", "weights", "transform", "precision", "dtype", "row_order", "prefix_names")
DECIDES_NOTHING = ("layers", "views", "augmentation")

evil_leaves = st.sampled_from([None, True, False, *EVIL_NUMBERS, *EVIL_TEXTS]) | st.integers() | st.text(max_size=5)
evil_values = st.recursive(
    evil_leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(EVIL_TEXTS), inner, max_size=3),
    max_leaves=6,
)
DEEP = {f"@{levels}@": "[" * levels + "]" * levels for levels in (30, 60, 900, 50_000)}
"""Texts that stand for nested lists: Python could not write the deepest ones."""


def text_of(value: Any) -> str:
    """Return JSON with some texts replaced by nested lists."""
    text = json.dumps(value)
    for name, lists in DEEP.items():
        text = text.replace(f'"{name}"', lists)
    return text


def places_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value within a value, at any depth."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places_of(inner, (*path, key))


@st.composite
def changed(draw: st.DrawFn, value: dict[str, Any]) -> dict[str, Any]:
    """A copy of JSON with one to three values replaced, removed or renamed."""
    copy, places = json.loads(json.dumps(value)), list(places_of(value))
    for *way, last in draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
        how, other = draw(st.sampled_from(["replace", "remove", "rename", "nest"])), draw(evil_values)
        with suppress(AttributeError, KeyError, IndexError, TypeError):  # removed by an earlier change
            holder = copy
            for key in way:
                holder = holder[key]
            taken = holder.pop(last)
            if how == "rename":
                holder[draw(st.sampled_from(EVIL_TEXTS))] = taken
            elif how != "remove":
                filled = draw(st.sampled_from(list(DEEP))) if how == "nest" else other
                holder.insert(last, filled) if isinstance(holder, list) else holder.update({last: filled})
    return copy


def with_right_fingerprints(manifest: Any) -> Any:
    """Make the fingerprints match the content, as an attacker would, if that is possible."""
    with suppress(KeyError, TypeError, AttributeError, ValueError, RecursionError):
        recipe = {name: manifest[name] for name in RECIPE}
        manifest["fingerprints"] = {
            split: {
                layer: [fingerprint(manifest, recipe, info, int(layer[6:]), view) for view in range(info["views"] % 50)]
                for layer in info["layers"]
            }
            for split, info in manifest["splits"].items()
        }
    return manifest


def fingerprint(manifest: Any, recipe: Any, info: Any, layer: int, view: int) -> str:
    split = {key: value for key, value in info.items() if key not in DECIDES_NOTHING}
    deciding = {"format": manifest["format"], "recipe": recipe, "split": split, "layer": layer, "view": view}
    if view:
        deciding["augmentation"] = info["augmentation"]
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes of a file that are cut, flipped, repeated, replaced or empty."""
    where, length = draw(st.integers(0, max(0, len(data) - 1))), draw(st.integers(0, 40))
    return draw(
        st.sampled_from(
            [
                b"",
                data[:where],
                data[where:],
                data[:where] + bytes([data[where] ^ 1 << draw(st.integers(0, 7))]) + data[where + 1 :],
                data[:where] + draw(st.binary(max_size=12)) + data[where + length :],
                data[:where] + data[where : where + length] * 3 + data[where:],
                b"[" * 100_000,
                b"\xff\xfe" + data,
                b"null",
                bytes(len(data)),
            ]
        )
    )


class Target:
    """A store whose files are replaced for a moment."""

    def __init__(self, path: Path, contents: Contents) -> None:
        self.path = write(path, contents)
        names = ["journal.jsonl", *store_files(path).declared(contents.manifest)]
        self.files = sorted({root_of(path), *(folder_of(path) / name for name in names)})
        self.journal = folder_of(path) / "journal.jsonl"
        self.lines = self.journal.read_bytes().splitlines()
        self.manifest = open_store(path).manifest.to_json()

    @contextmanager
    def replaced(self, content: Mapping[Path, bytes | None]) -> Iterator[None]:
        """Give files another content, or none."""
        kept = {file: file.read_bytes() for file in content}
        try:
            for file, data in content.items():
                file.unlink() if data is None else file.write_bytes(data)
            yield
        finally:
            for file, data in kept.items():
                file.write_bytes(data)

    def root_with(self, manifest: Any) -> bytes:
        """Return a root file that holds a manifest."""
        if self.path.suffix != ".h5":
            return text_of({"zarr_format": 3, "node_type": "group", "attributes": manifest}).encode()
        with h5py.File.in_memory(libver=("v110", "v110")) as file:
            file.attrs["manifest"] = text_of(manifest)
            file.flush()
            return bytes(file.id.get_file_image())

    def use(self) -> None:
        """Use the store as people do who did not make it. Our own errors are fine."""
        for call in (self._read, lambda: verify(self.path)):
            said = ""
            try:
                call()
            except TokenprobeError as error:
                said = str(error)
            assert said.isprintable() and len(said) < 2000

    def _read(self) -> None:
        store = open_store(self.path)
        assert all(line.isprintable() for line in describe(store))
        for split in (store[name] for name in store.splits):
            tokens = partial(split.tokens, split.layers[0], [0], kind=next(iter(split.info.layers.values()))[0])
            for read in (
                lambda split=split: split.labels,
                lambda split=split: split.ids,
                tokens,
                store.check_unchanged,
            ):
                with suppress(TokenprobeError):
                    read()


@pytest.fixture(scope="module", params=SUFFIXES, ids=["zarr", "hdf5"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Target:
    contents = make_contents("int8", counts={"train": 5, "test": 2})
    layers = {split: {"layer_03": info.layers["layer_03"]} for split, info in contents.manifest.splits.items()}
    return Target(tmp_path_factory.mktemp("fuzz") / f"s{request.param}", contents.part(layers))


@given(data=st.data())
def test_a_manifest_that_says_anything_ends_in_one_line(target: Target, data: st.DataObject) -> None:
    manifest = data.draw(changed(target.manifest))
    if data.draw(st.booleans()):
        manifest = with_right_fingerprints(manifest)
    keeps_journal = data.draw(st.booleans())
    root = {root_of(target.path): target.root_with(manifest)}
    with target.replaced(root if keeps_journal else {**root, target.journal: None}):
        target.use()


@given(data=st.data())
def test_a_journal_that_says_anything_ends_in_one_line(target: Target, data: st.DataObject) -> None:
    lines = list(target.lines)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at] = text_of(data.draw(changed(json.loads(target.lines[at])) | evil_values)).encode()
    with target.replaced({target.journal: b"\n".join(lines) + b"\n"}):
        target.use()


@given(data=st.data())
def test_a_file_of_any_bytes_ends_in_one_line(target: Target, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(target.files))
    content = data.draw(damaged(file.read_bytes()))
    keeps_journal = data.draw(st.booleans())  # without it nothing tells that the bytes are others
    with target.replaced({file: content} if keeps_journal else {target.journal: None} | {file: content}):
        target.use()


ODD_FILES = {
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a file without end": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize("make", ODD_FILES.values(), ids=ODD_FILES)
def test_what_is_no_file_ends_in_one_line(target: Target, make: Callable[[Path], None]) -> None:
    for file in target.files:
        kept = file.with_name("kept")
        file.rename(kept)
        make(file)
        try:
            target.use()
        finally:
            file.rmdir() if file.is_dir() else file.unlink()
            kept.rename(file)
