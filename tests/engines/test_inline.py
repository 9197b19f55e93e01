"""One process does all units, and the registry finds every engine."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tokenprobe.engines import ENGINES, engine_name, is_follower, make_engine
from tokenprobe.engines.contract import Tell, Worker, WorkerFactory
from tokenprobe.engines.inline import Inline
from tokenprobe.errors import InputError
from tokenprobe.runtime.stopping import Terminated, finishing, heed_signals

from .kit import EXTRACT, check_whole, end, files_of, probe, run, start


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    heed_signals()
    yield
    heed_signals()
    for number, handler in before.items():
        signal.signal(number, handler)


def worker_into(done: list[int]) -> WorkerFactory:
    @contextmanager
    def make() -> Iterator[Worker]:
        def work(units: Iterator[int], tell: Tell) -> None:
            with finishing():
                for unit in units:
                    if unit == 99:
                        signal.raise_signal(signal.SIGUSR1)
                    done.append(unit)
                    tell(1, unit)

        yield work

    return make


def test_all_units_are_done_in_order() -> None:
    done: list[int] = []
    told: list[tuple[int, int]] = []
    with make_engine("inline") as engine:
        assert engine.leads
        engine.run([3, 1, 2], worker_into(done), lambda *amounts: told.append(amounts))
    assert done == [3, 1, 2]
    assert told == [(1, 3), (1, 1), (1, 2)]


def no_worker() -> NoReturn:
    raise AssertionError


def test_without_units_no_worker_is_made() -> None:
    with Inline() as engine:
        engine.run([], no_worker, lambda *_: None)


def test_after_a_signal_the_unit_is_finished_and_no_other_begun() -> None:
    done: list[int] = []
    with pytest.raises(Terminated), Inline() as engine:
        engine.run([1, 99, 2], worker_into(done), lambda *_: None)
    assert done == [1, 99]


def test_the_engine_is_torchrun_where_torchrun_started_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert (engine_name(None), is_follower(None)) == ("inline", False)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "1")
    assert (engine_name(None), is_follower(None)) == ("torchrun", True)
    assert (engine_name("inline"), is_follower("inline")) == ("inline", False)
    assert set(ENGINES) == {"inline", "torchrun", "ray"}


@pytest.mark.slow
def test_of_two_leaders_at_once_one_works_and_the_store_is_whole(tmp_path: Path) -> None:
    whole, store = tmp_path / "whole.zarr", tmp_path / "s.zarr"
    leaders = [start(probe([*EXTRACT, "-o", str(store)])) for _ in range(2)]
    ended = sorted(end(leader) for leader in leaders)
    assert [status for status, _, _ in ended] in ([0, 0], [0, 2]), ended
    if ended[1][0] == 2:
        assert "is being written by process" in ended[1][2]
    assert run(probe([*EXTRACT, "-o", str(whole)]))[0] == 0
    check_whole(store, files_of(whole))


@pytest.mark.parametrize(("option", "value"), [("address", "auto"), ("num_gpus", 0.0)])
def test_an_option_of_another_engine_is_refused(option: str, value: object) -> None:
    flag = option.replace("_", "-")
    message = (
        f"^{option} {value!r} is for the engine ray, but the engine is inline; give --engine ray, or leave --{flag}"
    )
    with pytest.raises(InputError, match=message):
        make_engine(None, **{option: value})
