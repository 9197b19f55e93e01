"""Many writers of one store at once, living and dead, whose bytes differ. In both formats, with real processes."""

import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store import BlockKey, open_block_writer, open_store, open_writer
from tokenprobe.store.journal import FOLDER, writer_journals
from tokenprobe.store.verify import verify
from tokenprobe.testing.forks import count_steps, fork_and_kill
from tokenprobe.testing.store_kit import (
    ALL,
    Contents,
    blocks,
    declare,
    fill,
    folder_of,
    make_contents,
    rows_of,
    stamps,
    targets_of,
    tree,
    write,
)

Place = Callable[[str], Path]
N_WRITERS = 3


def declared(path: Path, contents: Contents) -> Path:
    """Make a store without blocks, as its leader leaves it to other writers."""
    with open_writer(path, contents.manifest) as writer:
        declare(writer, contents)
    return path


def sealed(path: Path, contents: Contents) -> bool:
    with open_writer(path, contents.manifest) as writer:
        declare(writer, contents)
        return writer.seal()


def write_blocks(path: Path, contents: Contents, keys: Sequence[BlockKey]) -> None:
    with open_block_writer(path, contents.manifest) as writer:
        fill(writer, contents, [key for key in keys if writer.missing_layers(key)])
        writer.flush()


def of_another_device(contents: Contents, number: int) -> Contents:
    """Return the same store with other numbers, as another device might compute them."""
    blocks_of = {name for name in contents.stored if name.count("/") == 2 and not name.endswith("_channels")}
    stored = {
        name: values + values.dtype.type(number) if name in blocks_of else values
        for name, values in contents.stored.items()
    }
    return replace(contents, stored=stored)


def in_forks(*works: Callable[[], object]) -> list[int]:
    """Run each work in a process of its own, all at once; return their exit statuses."""
    processes = []
    for work in works:
        process = os.fork()
        if process == 0:
            status = 1
            try:
                work()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        processes.append(process)
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def test_writers_that_share_the_blocks_write_the_store_of_one(place: Place) -> None:
    contents, path = make_contents("int8"), declared(place("s"), make_contents("int8"))
    keys = blocks(contents.manifest)
    works = [lambda n=n: write_blocks(path, contents, keys[n::N_WRITERS]) for n in range(N_WRITERS)]
    assert in_forks(*works) == [0] * N_WRITERS
    assert not open_store(path).manifest.complete
    assert {problem.kind for problem in verify(path)} == {"unfinished"}, "it is not sealed"
    for layer in open_store(path)["train"].layers:
        open_store(path)["train"].check_complete([layer])
    assert len(writer_journals(folder_of(path))) == N_WRITERS
    assert sealed(path, contents)
    assert not (folder_of(path) / FOLDER).exists()
    assert tree(path) == tree(write(place("whole"), contents))
    assert verify(path) == []


def test_writers_of_the_same_blocks_do_no_harm_though_their_bytes_differ(place: Place) -> None:
    contents, path = make_contents(), declared(place("s"), make_contents())
    keys, rng = blocks(contents.manifest), np.random.default_rng(0)
    theirs = [of_another_device(contents, number) for number in range(N_WRITERS)]
    orders = [[keys[i] for i in rng.permutation(len(keys))] for _ in theirs]
    works = [lambda n=n: write_blocks(path, theirs[n], orders[n]) for n in range(N_WRITERS)]
    assert in_forks(*works) == [0] * N_WRITERS
    assert sealed(path, contents)
    assert verify(path) == []
    whole = [tree(write(place(f"whole {n}"), theirs[n])) for n in range(N_WRITERS)]
    found = tree(path)
    for name, data in found.items():
        assert data in [of_one[name] for of_one in whole], name


def test_a_writer_that_is_killed_anywhere_beside_a_living_one_loses_no_finished_block(place: Place) -> None:
    contents, other = make_contents(), of_another_device(make_contents(), 1)
    keys = blocks(contents.manifest)
    n_steps = count_steps(lambda: write_blocks(declared(place("counted"), contents), contents, keys))
    for step in np.random.default_rng(0).choice(n_steps - 40, 8, replace=False) + 30:
        path = declared(place(str(step)), contents)
        living = os.fork()
        if living == 0:
            try:
                write_blocks(path, other, keys[::-1])
            finally:
                os._exit(0)
        assert fork_and_kill(partial(write_blocks, path, contents, keys), int(step)) in (True, False)
        os.waitpid(living, 0)
        before = stamps(path)
        write(path, contents)
        assert verify(path) == [], f"killed at step {step}"
        assert before.items() <= stamps(path).items(), "what was recorded stays"
        assert not list(folder_of(path).rglob("*.tmp"))


def test_a_file_that_a_killed_writer_named_and_did_not_record_is_recorded_as_it_is(place: Place) -> None:
    contents, other = make_contents(), of_another_device(make_contents(), 1)
    path = declared(place("s"), contents)
    assert fork_and_kill(lambda: write_blocks(path, other, blocks(contents.manifest)), 0, {"os.link"}) is True
    assert fork_and_kill(lambda: write_blocks(path, other, blocks(contents.manifest)), 3, {"os.link"}) is True
    write_blocks(path, contents, blocks(contents.manifest))
    assert sealed(path, contents)
    assert verify(path) == []


def test_a_second_leader_and_other_writers_may_work_beside_a_leader_that_holds_no_lock(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems have no locks, or locks that other machines do not see."""
    contents, path = make_contents(), place("s")
    declared(path, contents)
    monkeypatch.setattr("tokenprobe.store.lock.fcntl.flock", lambda fd, how: None)
    theirs = [of_another_device(contents, number) for number in range(2)]
    works: list[Callable[[], object]] = [partial(write, path, each) for each in theirs]
    works.append(partial(write_blocks, path, contents, blocks(contents.manifest)))
    assert in_forks(*works) == [0] * 3
    assert sealed(path, contents)
    assert verify(path) == []


def test_what_the_store_does_not_declare_is_refused(place: Place) -> None:
    contents, path = make_contents(), place("s")
    some = contents.part({"train": {"layer_00": ["mean"]}})
    declared(path, some)
    for wanted in (contents, contents.part({"train": {"layer_00": ["mean", "patch"]}})):
        with (
            pytest.raises(StoreError, match="declares other tokens than this command makes"),
            open_block_writer(path, wanted.manifest),
        ):
            pass
    with open_block_writer(path, some.manifest) as writer:
        writer.check_unchanged()
        declared_anew = replace(some.manifest, recipe=replace(some.manifest.recipe, weights="1" * 64))
        with open_writer(path, declared_anew, overwrite=True) as leader:
            declare(leader, replace(some, manifest=declared_anew))
        with pytest.raises(StoreError, match="declares other tokens"):
            writer.check_unchanged()


def test_a_writer_with_old_rows_stops_once_rows_moved(place: Place) -> None:
    """Otherwise its blocks would have the size of the new ones, and the next leader would record them."""
    contents, path = make_contents(), declared(place("s"), make_contents())
    fewer, keys = contents.without("train", [0]), blocks(contents.manifest)
    with open_block_writer(path, contents.manifest) as old:
        with open_writer(path, fewer.manifest) as leader:
            leader.drop_moved_rows(targets_of(fewer))
            declare(leader, fewer)
        with pytest.raises(StoreError, match="declares other tokens"):  # noqa: PT012  # a thread raises it
            fill(old, contents, keys[:1])
            old.flush()
    write(path, fewer)
    assert tree(path) == tree(write(place("alone"), fewer))


def test_blocks_are_recorded_after_a_flush_and_more_may_follow(place: Place) -> None:
    contents = make_contents()
    path, keys = declared(place("s"), contents), blocks(contents.manifest)
    with open_block_writer(path, contents.manifest) as writer:
        for key in keys[:3]:
            fill(writer, contents, [key])
            writer.flush()
            with open_block_writer(path, contents.manifest) as other:
                assert other.missing_layers(key) == []
                assert other.missing_layers(keys[3])


def test_a_store_whose_journal_is_lost_is_refused_and_keeps_its_blocks(place: Place) -> None:
    contents = make_contents()
    path = write(place("s"), contents)
    journal = folder_of(path) / "journal.jsonl"
    journal.unlink()
    before = tree(path)
    for part in (contents, contents.part({"test": {"layer_00": ALL}})):
        with pytest.raises(
            StoreError, match=r"has lost its journal, .*bring '.*journal\.jsonl' back, write to another"
        ):
            write(path, part)
        assert tree(path) == before and not journal.exists()
    assert tree(write(path, contents, overwrite=True)) == before


def test_a_store_without_a_journal_or_blocks_is_begun_again(place: Place) -> None:
    """A writer was killed early, and its journal is lost: there is nothing to lose."""
    contents = make_contents()
    path = declared(place("s"), contents)
    (folder_of(path) / "journal.jsonl").unlink()
    write(path, contents)
    assert tree(path) == tree(write(place("whole"), contents))


def test_a_leader_that_opens_the_store_leaves_the_files_of_a_living_writer(place: Place) -> None:
    contents = make_contents()
    path, key = declared(place("s"), contents), blocks(contents.manifest)[0]
    told, tell = os.pipe()
    going_on, go_on = os.pipe()

    def write_slowly() -> None:
        with open_block_writer(path, contents.manifest) as writer:
            for rows in (slice(2), slice(2, None)):
                for layer in writer.missing_layers(key):
                    arrays = rows_of(contents, key, layer)
                    writer.append(key, layer, {kind: values[rows] for kind, values in arrays.items()})
                writer.flush()
                os.write(tell, b"!")
                os.read(going_on, 1)
            for layer in writer.missing_layers(key):
                writer.finish_block(key, layer)
            writer.flush()

    def lead() -> None:
        os.read(told, 1)
        with open_writer(path, contents.manifest) as leader:
            declare(leader, contents)
            assert list(folder_of(path).rglob("*.tmp"))
        os.write(go_on, b"!!")

    assert in_forks(write_slowly, lead) == [0, 0]
    with open_block_writer(path, contents.manifest) as writer:
        assert writer.missing_layers(key) == []
