"""Stores that come out the same, byte for byte, whatever happened on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import numpy as np
import pytest
import zarr
from xxhash import xxh3_64_hexdigest

from tokenprobe.errors import LockedError, NoSpaceError, StoreError
from tokenprobe.store import BlockKey, Manifest, Store, StoreWriter, open_store, open_writer

BLOCK, GRID, DIM = 4, (2, 3), 5
COUNTS = {"train": 11, "test": 3}
DISK_STEPS = {"open", "os.mkdir", "os.rename", "os.truncate", "os.remove", "os.rmdir", "step"}
Tokens = dict[str, dict[int, dict[str, np.ndarray]]]


@pytest.fixture
def ram() -> Iterator[Path]:
    """A folder in memory, where there is one: there fsync costs nothing."""
    shm = Path("/dev/shm")
    with TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    """Patch, prefix and mean of layers 0 and 3 of two splits."""
    rng = np.random.default_rng(0)
    return {
        split: {
            layer: {
                "patch": rng.standard_normal((n, 6, DIM)).astype(np.float16),
                "prefix": rng.standard_normal((n, 1, DIM)).astype(np.float16),
                "mean": rng.standard_normal((n, DIM)).astype(np.float32),
            }
            for layer in (0, 3)
        }
        for split, n in COUNTS.items()
    }


@pytest.fixture
def whole(ram: Path, tokens: Tokens, write_store: Callable[..., Store]) -> Store:
    """The store of `tokens`, written in one go."""
    return write_store(ram / "whole", tokens, labels(tokens), grid=GRID, block_rows=BLOCK)


def test_every_file_is_recorded_with_its_size_and_hash(whole: Store) -> None:
    data = {str(path.relative_to(whole.path)): path.read_bytes() for path in whole.path.rglob("c.*")}
    recorded = [json.loads(line) for line in (whole.path / "journal.jsonl").read_text().splitlines()]
    assert {entry["file"]: (entry["size"], entry["xxh3"]) for entry in recorded} == {
        name: (len(content), xxh3_64_hexdigest(content)) for name, content in data.items()
    }
    assert len(recorded) == len(data) == 2 * 2 + 2 * 3 * (3 + 1)


def test_the_same_tokens_give_the_same_bytes_in_batches_of_any_size(ram: Path, whole: Store, tokens: Tokens) -> None:
    for batch in (1, 3):
        write(ram / str(batch), whole.manifest, tokens, batch=batch)
        assert tree(ram / str(batch)) == tree(whole.path)


def test_a_store_killed_anywhere_and_resumed_equals_one_written_in_one_go(
    ram: Path, whole: Store, tokens: Tokens
) -> None:
    expected = tree(whole.path)
    for step in count(0, 11):
        path = ram / str(step)
        killed = fork_and_kill(lambda path=path: write(path, whole.manifest, tokens), step)
        intact = tree(path) == expected
        assert intact or not says_complete(path), f"killed before step {step}"
        finished = stamps(path)
        write(path, whole.manifest, tokens)
        assert tree(path) == expected, f"killed before step {step}"
        assert finished.items() <= stamps(path).items(), f"killed before step {step}: wrote finished files again"
        shutil.rmtree(path)
        if not killed:
            break
    assert step > 20 * 11


def test_a_store_killed_again_and_again_gets_finished(ram: Path, whole: Store, tokens: Tokens) -> None:
    path = ram / "again"
    n_kills = 0
    while fork_and_kill(lambda: write(path, whole.manifest, tokens), 100 + 5 * n_kills):
        n_kills += 1
    assert n_kills > 3
    assert tree(path) == tree(whole.path)


def test_a_store_killed_while_it_grows_keeps_what_it_had(ram: Path, whole: Store, tokens: Tokens) -> None:
    first = part(whole.manifest, {"train": {"layer_00": ["mean", "patch", "prefix"]}})
    for step in range(0, 120, 17):
        path = ram / str(step)
        write(path, first, tokens)
        assert fork_and_kill(lambda path=path: write(path, whole.manifest, tokens), step)
        train = open_store(path)["train"]
        train.check_complete([0])
        np.testing.assert_array_equal(train.tokens(0), tokens["train"][0]["patch"])
        write(path, whole.manifest, tokens)
        assert tree(path) == tree(whole.path), f"killed before step {step}"


@pytest.mark.parametrize(
    "first",
    [
        {"train": {"layer_03": ["mean", "patch", "prefix"]}},
        {"test": {"layer_00": ["mean", "patch", "prefix"], "layer_03": ["mean", "patch", "prefix"]}},
        {"train": {"layer_00": ["mean"], "layer_03": ["mean", "patch"]}, "test": {"layer_00": ["prefix"]}},
    ],
    ids=["a layer", "a split", "some arrays"],
)
def test_a_store_that_grew_equals_one_written_whole(
    ram: Path, whole: Store, tokens: Tokens, first: dict[str, dict[str, list[str]]]
) -> None:
    write(ram / "grown", part(whole.manifest, first), tokens)
    had = stamps(ram / "grown")
    assert open_store(ram / "grown").manifest.complete
    write(ram / "grown", whole.manifest, tokens)
    assert tree(ram / "grown") == tree(whole.path)
    whole_before = {f"{s}/{name}" for s, layers in first.items() for name, kinds in layers.items() if len(kinds) == 3}
    now = stamps(ram / "grown")
    assert {name for name in had if now[name] != had[name] and group_of(name) in whole_before | set(first)} == set()


def test_asking_for_part_of_a_store_keeps_all_of_it(ram: Path, whole: Store, tokens: Tokens) -> None:
    before, stamped = tree(whole.path), stamps(whole.path)
    write(whole.path, part(whole.manifest, {"test": {"layer_03": ["mean"]}}), tokens)
    assert (tree(whole.path), stamps(whole.path)) == (before, stamped)


def test_complete_is_false_until_the_last_block_is_there(ram: Path, whole: Store, tokens: Tokens) -> None:
    path = ram / "s"
    with open_writer(path, whole.manifest) as writer:
        declare(writer, whole.manifest, tokens)
        assert says_complete(path) is False
        fill(writer, tokens, [BlockKey("train", 0, block) for block in range(3)])
        assert writer.complete() is False
    assert says_complete(path) is False
    with open_writer(path, whole.manifest) as writer:
        declare(writer, whole.manifest, tokens)
        fill(writer, tokens, [BlockKey("test", 0, 0)])
        assert says_complete(path) is False
        assert writer.complete() is True
    assert says_complete(path) is True


def test_only_what_is_missing_is_asked_for(ram: Path, whole: Store, tokens: Tokens) -> None:
    first, second = BlockKey("train", 0, 0), BlockKey("train", 0, 1)
    with open_writer(ram / "s", whole.manifest) as writer:
        declare(writer, whole.manifest, tokens)
        assert writer.missing_layers(first) == [0, 3]
        fill(writer, tokens, [first])
        writer.append(second, 3, rows_of(tokens, second, 3))  # never finished
        assert writer.complete() is False
    with open_writer(ram / "s", whole.manifest) as writer:
        assert [writer.missing_layers(key) for key in (first, second)] == [[], [0, 3]]
    only_mean = part(whole.manifest, {"train": {"layer_03": ["mean"]}})
    with open_writer(ram / "s", only_mean) as writer:
        assert [writer.missing_layers(key) for key in (first, second)] == [[], [3]]


def test_closing_in_the_middle_leaves_no_half_written_file(ram: Path, whole: Store, tokens: Tokens) -> None:
    def stop_in_the_middle() -> NoReturn:
        key = BlockKey("train", 0, 0)
        with open_writer(ram / "s", whole.manifest) as writer:
            declare(writer, whole.manifest, tokens)
            writer.append(key, 0, rows_of(tokens, key, 0))
            raise KeyboardInterrupt

    n_open = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyboardInterrupt):
        stop_in_the_middle()
    assert not list((ram / "s").rglob("*.tmp")) and not list((ram / "s").rglob("layer_*/*/c.*"))
    assert len(os.listdir("/proc/self/fd")) == n_open
    write(ram / "s", whole.manifest, tokens)  # the lock is free
    assert tree(ram / "s") == tree(whole.path)


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 3)], ids=["deleted", "truncated"])
@pytest.mark.parametrize("name", ["train/layer_03/patch/c.0.2.0.0", "test/layer_00/mean/c.0.0.0", "train/ids/c.0"])
def test_a_recorded_file_that_is_gone_or_cut_is_written_again(
    whole: Store, tokens: Tokens, name: str, damage: Callable[[Path], None]
) -> None:
    before, stamped = tree(whole.path), stamps(whole.path)
    damage(whole.path / name)
    write(whole.path, whole.manifest, tokens)
    assert tree(whole.path) == before
    changed = {file for file, stamp in stamps(whole.path).items() if stamped[file] != stamp}
    assert name in changed and {group_of(file) for file in changed} == {group_of(name)}


def test_two_views_are_two_entries_of_the_first_axis(ram: Path, whole: Store, tokens: Tokens) -> None:
    manifest = replace(whole.manifest, views=2)
    with open_writer(ram / "s", manifest) as writer:
        declare(writer, manifest, tokens)
        fill(writer, tokens, blocks(manifest))
        negated = {s: {n: {k: -v for k, v in ks.items()} for n, ks in of.items()} for s, of in tokens.items()}
        fill(writer, negated, [key._replace(view=1) for key in blocks(manifest)])
        assert writer.complete()
    patch = tokens["train"][3]["patch"]
    shown = zarr.open_array(ram / "s", path="train/layer_03/patch", mode="r")[:]
    np.testing.assert_array_equal(shown, np.stack([patch, -patch]), strict=True)
    np.testing.assert_array_equal(open_store(ram / "s")["train"].tokens(3, [9, 0], view=1), -patch[[9, 0]])


def test_a_store_made_differently_is_refused_and_left_alone(whole: Store, tokens: Tokens) -> None:
    before = tree(whole.path)
    other = replace(whole.manifest, recipe=replace(whole.manifest.recipe, precision="bfloat16"))
    with pytest.raises(StoreError, match=r"made differently \(precision: stored 'float32', asked 'bfloat16'\)"):
        write(whole.path, other, tokens)
    assert tree(whole.path) == before


def test_one_writer_at_a_time(whole: Store) -> None:
    with (
        open_writer(whole.path, whole.manifest),
        pytest.raises(LockedError, match=f"being written by process {os.getpid()} "),
        open_writer(whole.path, whole.manifest, overwrite=True),
    ):
        pass
    assert tree(whole.path) and open_store(whole.path).manifest.complete


def make_file(path: Path) -> None:
    path.write_text("mine")


def make_photos(path: Path) -> None:
    (path / "train").mkdir(parents=True)
    (path / "train" / "cat.png").write_text("mine")


def make_zarr_group(path: Path) -> None:
    zarr.create_group(path, attributes={"mine": 1})


def make_zarr_group_with_arrays(path: Path) -> None:
    zarr.create_group(path, attributes={"format": "OME"}).create_array("x", shape=(2,), dtype="f4")[:] = 1


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("make", [make_file, make_photos, make_zarr_group, make_zarr_group_with_arrays])
def test_what_is_no_store_is_refused_and_left_alone(
    ram: Path, whole: Store, make: Callable[[Path], None], overwrite: bool
) -> None:
    path = ram / "mine"
    make(path)
    before = tree(path)
    with (
        pytest.raises(StoreError, match=f"^'{path}' exists and is not a token store; give another path$"),
        open_writer(path, whole.manifest, overwrite=overwrite) as writer,
    ):
        writer.complete()
    assert tree(path) == before


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", "journal.jsonl"], [".lock", "zarr.json.tmp"]])
def test_an_empty_folder_and_what_a_first_run_killed_early_leaves_are_fine(
    ram: Path, whole: Store, tokens: Tokens, left: list[str]
) -> None:
    (ram / "s").mkdir()
    for name in left:
        (ram / "s" / name).write_bytes(b"")
    write(ram / "s", whole.manifest, tokens)
    assert {name: data for name, data in tree(ram / "s").items() if name != "zarr.json.tmp"} == tree(whole.path)


def test_overwriting_empties_the_store_first(ram: Path, whole: Store, tokens: Tokens) -> None:
    smaller = part(whole.manifest, {"test": {"layer_00": ["mean", "patch"]}})
    other = replace(smaller, recipe=replace(smaller.recipe, precision="bfloat16"))
    write(whole.path, other, tokens, overwrite=True)
    write(ram / "fresh", other, tokens)
    assert tree(whole.path) == tree(ram / "fresh")


@pytest.mark.parametrize("copied", [False, True])  # folders list their entries in the order they were made, or not
def test_overwriting_that_was_killed_calls_nothing_complete_and_can_be_repeated(
    ram: Path, whole: Store, tokens: Tokens, copied: bool
) -> None:
    for step in range(3, 60, 4):
        path = ram / str(step)
        shutil.copytree(whole.path, path) if copied else write(path, whole.manifest, tokens)
        assert fork_and_kill(lambda path=path: write(path, whole.manifest, tokens, overwrite=True), step)
        intact = tree(whole.path).items() <= tree(path).items()
        assert intact or not says_complete(path), f"killed before step {step}"
        write(path, whole.manifest, tokens, overwrite=True)
        assert tree(path) == tree(whole.path), f"killed before step {step}"


def test_a_full_disk_keeps_the_finished_blocks_and_the_same_command_goes_on(
    small_disk: Callable[[int], Path], ram: Path, write_store: Callable[..., Store]
) -> None:
    values = np.random.default_rng(0).standard_normal((64, 64, 32)).astype(np.float16)  # 4 KiB an image
    big: Tokens = {"train": {layer: {"patch": values, "mean": values[:, 0].astype(np.float32)} for layer in (0, 1)}}
    expected = write_store(ram / "big", big, {"train": np.arange(64) % 3}, grid=(8, 8), block_rows=8)
    path = small_disk(300) / "s"
    with pytest.raises(NoSpaceError) as raised:
        write(path, expected.manifest, big)
    assert str(raised.value) == (
        f"the disk of {str(path)!r} is full; finished blocks are safe: free some space, then run the same command again"
    )
    assert not list(path.rglob("*.tmp"))
    finished = stamps(path)
    assert sum("/patch/c." in name for name in finished) >= 2
    subprocess.run(["mount", "-o", "remount,size=4m", str(path.parent)], check=True)
    write(path, expected.manifest, big)
    assert tree(path) == tree(expected.path)
    assert finished.items() <= stamps(path).items()


def test_a_disk_that_fills_up_with_the_padding_of_a_block_keeps_no_half_of_it(
    small_disk: Callable[[int], Path], whole: Store, tokens: Tokens
) -> None:
    path = small_disk(256) / "s"
    info = replace(whole.manifest.splits["test"], block_rows=100_000)  # 3 rows, the rest is padding
    manifest = replace(whole.manifest, splits={"test": info}, complete=False)
    n_open = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NoSpaceError, match="is full; finished blocks are safe"):
        write(path, manifest, tokens)
    assert not list(path.rglob("*.tmp"))
    assert len(os.listdir("/proc/self/fd")) == n_open


def test_a_disk_full_from_the_start_is_explained_too(
    small_disk: Callable[[int], Path], whole: Store, tokens: Tokens
) -> None:
    disk = small_disk(64)
    with pytest.raises(OSError, match="No space left"):
        fill_up(disk)
    n_open = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NoSpaceError, match="is full"):
        write(disk / "s", whole.manifest, tokens)
    assert len(os.listdir("/proc/self/fd")) == n_open


def test_other_errors_of_the_system_pass_as_they_are(ram: Path, whole: Store, tokens: Tokens) -> None:
    path = ram / "s"
    write(path, part(whole.manifest, {"train": {"layer_00": ["mean"]}}), tokens)
    (path / "train" / "layer_03").write_text("in the way")
    with pytest.raises(OSError, match=r"File exists|Not a directory") as raised:
        write(path, whole.manifest, tokens)
    assert not isinstance(raised.value, NoSpaceError)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount a disk of so many KiB."""
    mounted: list[Path] = []

    def mount(kib: int) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        if (
            not shutil.which("mount")
            or subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(folder)], capture_output=True, check=False
            ).returncode
        ):
            pytest.skip("a small disk cannot be mounted here: that takes root")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_up(disk: Path) -> NoReturn:
    with open(disk / "ballast", "wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))


def labels(tokens: Tokens) -> dict[str, np.ndarray]:
    return {split: np.arange(len(of_split[min(of_split)]["mean"])) % 3 for split, of_split in tokens.items()}


def part(manifest: Manifest, layers: dict[str, dict[str, list[str]]]) -> Manifest:
    """Declare only these arrays, by split and layer."""
    named = {name for of_split in layers.values() for name in of_split}
    return replace(
        manifest,
        complete=False,
        layers={name: manifest.layers[name] for name in named},
        splits={split: replace(manifest.splits[split], layers=of_split) for split, of_split in layers.items()},
    )


def write(path: Path, manifest: Manifest, tokens: Tokens, *, batch: int = 2, overwrite: bool = False) -> None:
    """Write what is missing of what `manifest` declares."""
    with open_writer(path, manifest, overwrite=overwrite) as writer:
        declare(writer, manifest, tokens)
        fill(writer, tokens, blocks(manifest), batch)
        sys.audit("step")
        assert writer.complete()


def declare(writer: StoreWriter, manifest: Manifest, tokens: Tokens) -> None:
    made = labels(tokens)
    writer.declare({s: (made[s].astype(np.int64), [f"{s}/{i}" for i in range(len(made[s]))]) for s in manifest.splits})


def blocks(manifest: Manifest) -> list[BlockKey]:
    return [BlockKey(split, 0, block) for split, info in manifest.splits.items() for block in range(info.n_blocks)]


def fill(writer: StoreWriter, tokens: Tokens, keys: list[BlockKey], batch: int = 2) -> None:
    for key in keys:
        for layer in writer.missing_layers(key):
            arrays = rows_of(tokens, key, layer, writer)
            for start in range(0, len(next(iter(arrays.values()))), batch):
                sys.audit("step")
                writer.append(key, layer, {kind: values[start : start + batch] for kind, values in arrays.items()})
            sys.audit("step")
            writer.finish(key, layer)


def rows_of(tokens: Tokens, key: BlockKey, layer: int, writer: StoreWriter | None = None) -> dict[str, np.ndarray]:
    """Return the rows of a block, of the arrays that the writer's store declares."""
    arrays = tokens[key.split][layer]
    info = writer.manifest.splits[key.split] if writer else None
    kinds = info.layers[f"layer_{layer:02d}"] if info else list(arrays)
    size = info.block_rows if info else BLOCK
    return {kind: arrays[kind][key.block * size : (key.block + 1) * size] for kind in kinds}


def fork_and_kill(work: Callable[[], None], step: int) -> bool:
    """Run `work` in a fork that kills itself before its `step`-th step; return whether it came to that.

    Steps are what it opens, makes, renames and removes, and each batch and block it hands over.
    """
    process = os.fork()
    if process == 0:
        counter = count()

        def kill(event: str, _: tuple[Any, ...]) -> None:
            if event in DISK_STEPS and next(counter) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(kill)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(process, 0)[1]
    assert status in (0, signal.SIGKILL), "the fork failed, see above"
    return status == signal.SIGKILL


def tree(path: Path) -> dict[str, bytes | None]:
    """Return the content of every file that is a function of the inputs, and the folders."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {
        str(entry.relative_to(path)): entry.read_bytes() if entry.is_file() else None
        for entry in path.rglob("*")
        if entry.name not in ("journal.jsonl", ".lock")
    }


def says_complete(path: Path) -> bool:
    """Whether there is a manifest that says so."""
    root = path / "zarr.json"
    return root.exists() and json.loads(root.read_bytes())["attributes"]["complete"]


def group_of(name: str) -> str:
    """Return the group that holds the array of a file: train/layer_00/patch/c.0.0.0.0 -> train/layer_00."""
    return name.rsplit("/", 2)[0]


def stamps(path: Path) -> dict[str, tuple[int, int]]:
    """Return what changes when a recorded file is written again: its inode and time."""
    journal = path / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    files = [path / entry["file"] for line in lines if "file" in (entry := json.loads(line))]
    return {str(file.relative_to(path)): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}
