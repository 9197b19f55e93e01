"""Scales that were recorded before the channel statistics that their tokens now have."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenprobe.store.formats import store_files
from tokenprobe.store.stale_scales import stale_scales
from tokenprobe.testing.store_kit import block_path, folder_of, make_contents, write

Place = Callable[[str], Path]
SCALE, STATISTICS = "train/layer_00/patch_scale", "train/layer_00/patch_channels"


def found(path: Path) -> set[Path]:
    files = store_files(path)
    return {folder_of(path) / name for name in stale_scales(files, files.read_manifest())}


def test_scales_recorded_before_their_statistics_changed_are_found(place: Place) -> None:
    path = write(place("s"), make_contents("int8"))
    journal = folder_of(path) / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    statistics = store_files(path).whole_names(STATISTICS)[-1]
    written = [line for line in lines if line.get("file") == statistics]
    scales = {block_path(path, SCALE, view, block) for view in (0, 1) for block in range(3)}
    remade = block_path(path, SCALE, 1, 2)
    [of_remade] = [line for line in lines if line.get("file") == str(remade.relative_to(folder_of(path)))]
    other = {"file": statistics, "size": written[0]["size"], "xxh3": "0" * 16}
    cases: list[tuple[list[Any], set[Path]]] = [
        ([], set()),
        (written, set()),  # recorded twice, but never other statistics
        ([other], scales),
        ([other, of_remade], scales),  # that version recorded the scales again as they were
        ([other, of_remade | {"xxh3": "1" * 16}], scales - {remade}),
    ]
    for more, stale in cases:
        journal.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *more]))
        assert found(path) == stale, more


def test_other_stores_have_none(place: Place) -> None:
    assert found(write(place("s"), make_contents())) == set()
