"""Blocks that arrive after their store was made anew, or while its rows move: no other store takes them for its own."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store import BlockKey, open_block_writer, open_store, open_writer
from tokenprobe.store.array_spec import array_spec
from tokenprobe.store.contract import StoreFiles
from tokenprobe.store.formats import store_files
from tokenprobe.store.new_file import NewObject
from tokenprobe.store.objects import ObjectPath
from tokenprobe.store.verify import verify
from tokenprobe.testing.store_kit import Contents, blocks, declare, fill, make_contents, write, write_some

FIRST = BlockKey("train", 0, 0)


@pytest.fixture
def address() -> str:
    """A store at an address: there, a block is published seconds after its writer looked at the store."""
    return f"memory://{uuid4().hex}/s.zarr"


@pytest.fixture
def before_upload(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Do something once, just before the next block is uploaded."""
    publish, first = NewObject.publish, list[Callable[[], object]]()

    def late(block: NewObject, size: int, stays: Callable[[], bool]) -> bool:
        while first:
            first.pop()()
        return publish(block, size, stays)

    monkeypatch.setattr(NewObject, "publish", late)
    return first.append


def of_another_model(contents: Contents) -> Contents:
    recipe = replace(contents.manifest.recipe, weights="1" * 64)
    stored = {name: -values if values.dtype.kind == "f" else values for name, values in contents.stored.items()}
    return replace(contents, manifest=replace(contents.manifest, recipe=recipe), stored=stored)


def declared(address: str, contents: Contents, *, overwrite: bool = False) -> str:
    with open_writer(address, contents.manifest, overwrite=overwrite) as writer:
        declare(writer, contents)
    return address


def fill_late(address: str, contents: Contents) -> None:
    """Write a block for a store that is made anew during the upload."""
    with open_block_writer(address, contents.manifest) as writer:
        fill(writer, contents, [FIRST], layers=[0])
        with pytest.raises(StoreError, match="declares other tokens than this command makes"):
            writer.flush()


def assert_holds(address: str, contents: Contents) -> None:
    store = open_store(address)
    assert verify(address) == [] and store.manifest.complete
    for split in store.splits:
        for layer in store.layers:
            for view in range(store[split].info.views):
                stored = contents.stored[f"{split}/layer_{layer:02d}/patch"][view]
                np.testing.assert_array_equal(store[split].tokens(layer, view=view), stored)


def name_of(contents: Contents, kind: str) -> str:
    files = store_files("s.zarr")
    return files.block_name(array_spec(contents.manifest, "train", "layer_00", kind), 0, 0)


@pytest.mark.parametrize("done", [False, True], ids=["declared", "complete"])
def test_a_store_made_anew_does_not_take_a_block_of_the_store_before(
    address: str, before_upload: Callable[[Callable[[], object]], None], done: bool
) -> None:
    old = make_contents()
    new, make = of_another_model(old), write if done else declared
    before_upload(lambda: make(declared(address, old), new, overwrite=True))
    fill_late(declared(address, old), old)
    assert (store_files(address).folder / name_of(old, "patch")).is_file()
    write(address, new)
    assert_holds(address, new)


def test_a_late_block_replaces_none_of_the_new_store_even_if_unrecorded(
    address: str, before_upload: Callable[[Callable[[], object]], None]
) -> None:
    old = make_contents()
    content = b"\1" * array_spec(old.manifest, "train", "layer_00", "mean").block_bytes
    there = store_files(address).folder / name_of(old, "mean")  # the first array that is uploaded
    assert isinstance(there, ObjectPath)

    def make_anew() -> None:
        declared(address, of_another_model(old), overwrite=True)
        there.write(content)

    before_upload(make_anew)
    fill_late(declared(address, old), old)
    assert there.read_bytes() == content


def test_a_block_that_is_finished_while_rows_move_is_removed(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is finished between the removal of the blocks that move and the manifest of the new rows."""
    grown = make_contents()
    small = limited(grown, 6)
    grown.manifest.splits["train"] = replace(grown.manifest.splits["train"], limit={"n": 11, "seed": 0, "after": [6]})
    late, remove = BlockKey("train", 0, 1), StoreFiles.remove
    write_some(address, small, [key for key in blocks(small.manifest) if key != late])
    finished: list[bool] = []

    def remove_too_early(files: StoreFiles, names: Iterable[str]) -> None:
        remove(files, names)
        if not finished:
            finished.append(True)
            fill(other, small, [late])
            other.flush()

    with open_block_writer(address, small.manifest) as other:
        monkeypatch.setattr(StoreFiles, "remove", remove_too_early)
        write(address, grown)
    assert finished
    assert_holds(address, grown)


def limited(contents: Contents, n: int) -> Contents:
    """Keep the first rows of `train`."""
    info = replace(contents.manifest.splits["train"], n_images=n, limit={"n": n, "seed": 0})
    stored = {
        name: values if not name.startswith("train/") else values[:n] if name.endswith("labels") else values[:, :n]
        for name, values in contents.stored.items()
    }
    manifest = replace(contents.manifest, splits=contents.manifest.splits | {"train": info})
    return replace(contents, manifest=manifest, stored=stored)
