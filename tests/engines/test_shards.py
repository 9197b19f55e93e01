"""Shares of the units: fixed, disjoint, complete. Real commands write them at the same time."""

import os
import signal
from pathlib import Path

import pytest

from tokenprobe.cli import main
from tokenprobe.engines.shards import parse_shard, share_of
from tokenprobe.errors import InputError
from tokenprobe.store import open_store

from .kit import EXTRACT, check_whole, end, files_of, n_blocks, probe, run, start, wait_until


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
def test_the_shares_are_all_units_and_none_twice(count: int) -> None:
    shares = [share_of(range(10), f"{number}/{count}") for number in range(count)]
    assert sorted(unit for share in shares for unit in share) == list(range(10))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert share_of(range(10), None) == list(range(10))


@pytest.mark.parametrize("text", ["", "1", "2/2", "3/2", "-1/2", "0/0", "1/x", "a/2", "0/2/3", "1.0/2"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"expected I/N with I from 0 to N - 1, such as 0/8 for the first of eight"):
        parse_shard(text)


@pytest.mark.slow
@pytest.mark.parametrize("form", [".zarr", ".h5"])
def test_shards_that_start_at_once_make_the_store_of_one_command(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of them is killed and given again. int8 needs statistics, which the first shard computes."""
    words = [*EXTRACT, "--dtype", "int8"]
    whole, store = tmp_path / "whole" / f"s{form}", tmp_path / "shards" / f"s{form}"
    folder = store if form == ".zarr" else store.with_name("s.h5.blocks")
    shards = [start(probe([*words, "-o", str(store), "--shard", f"{number}/2"])) for number in range(2)]
    wait_until(lambda: folder.exists() and n_blocks(folder) >= 10, shards[1])
    os.killpg(shards[1].pid, signal.SIGKILL)
    end(shards[1])
    status, _, messages = end(shards[0])
    assert status == 0, messages
    assert main(["merge", str(store)]) == 2
    assert "is not complete: " in capsys.readouterr().err
    assert run(probe([*words, "-o", str(whole)]))[0] == 0
    status, _, messages = run(probe([*words, "-o", str(store), "--shard", "1/2"]))
    assert status == 0, messages
    assert not open_store(store).manifest.complete
    assert main(["merge", str(store)]) == 0
    assert files_of(store.parent) == files_of(whole.parent)
    if form == ".zarr":
        check_whole(store, files_of(whole))


def test_shards_of_other_commands_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["extract", "-m", "timm:VisionTransformer", "--no-pretrained", "-d", "demo", "--workers", "0"]
    words += ["--limit", "32", "--model-arg", "img_size=28,patch_size=14,embed_dim=12,depth=1,num_heads=2"]
    words += ["-o", str(tmp_path / "s.zarr"), "--shard", "0/2"]
    assert main(words) == 0
    assert main([*words, "--seed", "7"]) == 2
    assert "the store was made differently" in capsys.readouterr().err
    for flag in ("--overwrite", "--skip-bad-images"):
        assert main([*words, flag]) == 2
        assert "do not go together" in capsys.readouterr().err
