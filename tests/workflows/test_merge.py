"""`probe merge` completes a store, or says what is missing."""

from pathlib import Path

import pytest

from tokenprobe.errors import MissingError, RunError, StoreError
from tokenprobe.store import open_block_writer, open_store
from tokenprobe.testing.store_kit import blocks, fill, folder_of, make_contents, tree, write, write_some
from tokenprobe.workflows.merge import merge


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_store_is_sealed_once_its_last_block_is_there(tmp_path: Path, suffix: str) -> None:
    contents, path = make_contents(), tmp_path / f"s{suffix}"
    keys = blocks(contents.manifest)
    write_some(path, contents, keys[:-1])
    message = r"^'.*' is not complete: test layer 0 lacks 1 block of 1, test layer 3 lacks 1 block of 1; run the shards"
    with pytest.raises(StoreError, match=message):
        merge(path)
    with open_block_writer(path, contents.manifest) as writer:
        fill(writer, contents, keys[-1:])
        writer.flush()
    assert merge(path) == f"{path}: complete"
    assert open_store(path).manifest.complete
    other = tmp_path / "other" / f"s{suffix}"
    assert tree(path) == tree(write(other, contents))
    assert merge(path) == f"{path}: complete"


def test_what_is_neither_a_store_nor_has_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no store at"):
        merge(tmp_path / "none.zarr")
    (tmp_path / "config.yaml").write_text("a: 1\nmade_from:\n")
    with pytest.raises(RunError, match="has no parts to merge"):
        merge(tmp_path)


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_store_that_lost_its_journal_is_refused_and_keeps_its_files(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"s{suffix}", make_contents())
    (folder_of(path) / "journal.jsonl").unlink()
    before = tree(path)
    with pytest.raises(StoreError, match="has lost its journal"):
        merge(path)
    assert tree(path) == before
