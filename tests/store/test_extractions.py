"""Recorded extractions: their order, and entries that are none."""

from pathlib import Path

import pytest

from tokenprobe.store.extractions import Extraction, read_extractions
from tokenprobe.store.journal import Journal


@pytest.mark.parametrize("key", ["config", "exported_config"])
def test_extractions_are_those_with_settings_in_their_order(tmp_path: Path, key: str) -> None:
    assert read_extractions(tmp_path) == []
    journal = Journal(tmp_path)
    journal.add_event("start", **{key: {"layers": "0"}})
    journal.add_event("start", **{key: {"layers": "1", "dtype": "int8"}, "given": ["dtype"]})
    journal.add_event("finish", seconds=1.0)
    journal.add_event("start", **{key: "damaged"})
    journal.add_event("start", **{key: {"layers": "2"}, "given": [3]})
    journal.close()
    assert read_extractions(tmp_path) == [
        Extraction({"layers": "0"}, None),
        Extraction({"layers": "1", "dtype": "int8"}, ["dtype"]),
        Extraction({"layers": "2"}, None),
    ]
