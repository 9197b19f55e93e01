"""Tables of a run on the disk: what is written comes back, and what has changed there does not."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenprobe.errors import RunError
from tokenprobe.probe.run.tables import KEY, read_table, table_bytes, table_digest

TYPES = {"cell": "str", "seed": "Int64", "epoch": "int64", "loss": "float64", "selected": "bool"}
DAMAGED = r"'.*t.parquet' is damaged, or was written by another version of tokenprobe \(.+\); put back a copy of it, or"


def make_table(n_rows: int = 5) -> pd.DataFrame:
    rows = range(n_rows)
    columns = {
        "cell": [None if row == 1 else f"käfer, {row % 2}" for row in rows],
        "seed": [None if row == 2 else 2**60 + row for row in rows],
        "epoch": [-row for row in rows],
        "loss": [np.nan if row == 3 else row / 3 for row in rows],
        "selected": [row % 2 == 0 for row in rows],
    }
    return pd.DataFrame(columns).astype(TYPES)


@pytest.mark.parametrize("n_rows", [0, 1, 5])
def test_a_table_comes_back(tmp_path: Path, n_rows: int) -> None:
    path, table = tmp_path / "t.parquet", make_table(n_rows)
    path.write_bytes(table_bytes(table))
    pd.testing.assert_frame_equal(read_table(path, TYPES), table)
    pd.testing.assert_frame_equal(pd.read_parquet(path), table)  # it is a file like any other
    assert table_bytes(table) == path.read_bytes()


def test_without_a_file_there_are_no_columns(tmp_path: Path) -> None:
    assert list(read_table(tmp_path / "t.parquet", TYPES)) == []


def test_no_bit_of_a_file_changes_a_number_unseen(tmp_path: Path) -> None:
    path, table = tmp_path / "t.parquet", make_table()
    content = table_bytes(table)
    refused = 0
    for bit in range(0, 8 * len(content), 29):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found = read_table(path, TYPES)
        except RunError:
            refused += 1
        else:
            pd.testing.assert_frame_equal(found, table)
    assert refused > 300


def test_numbers_that_were_written_anew_are_refused(tmp_path: Path) -> None:
    """With right checksums of pages, by another program."""
    path, table = tmp_path / "t.parquet", make_table()
    path.write_bytes(table_bytes(table))
    metadata = pq.read_schema(path).metadata
    changed = pa.Table.from_pandas(table.assign(loss=table["loss"] * 2), preserve_index=False)
    pq.write_table(changed.replace_schema_metadata(metadata), path)
    with pytest.raises(RunError, match=r"\(its rows are not those that were written\)"):
        read_table(path, TYPES)
    pq.write_table(changed.replace_schema_metadata(metadata | {KEY: table_digest(read_back(path)).encode()}), path)
    assert read_table(path, TYPES)["loss"][1] == 2 / 3


def read_back(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path).astype(TYPES)


@pytest.mark.parametrize("n_bytes", [0, 3, 100, -1])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, n_bytes: int) -> None:
    (tmp_path / "t.parquet").write_bytes(table_bytes(make_table())[:n_bytes])
    with pytest.raises(RunError, match=DAMAGED):
        read_table(tmp_path / "t.parquet", TYPES)


@pytest.mark.parametrize("change", ["another", "renamed", "dropped", "text", "reordered", "no digest"])
def test_another_table_is_refused(tmp_path: Path, change: str) -> None:
    table, path = make_table(), tmp_path / "t.parquet"
    changed = {
        "another": table.assign(other=1),
        "renamed": table.rename(columns={"loss": "lost"}),
        "dropped": table.drop(columns="seed"),
        "text": table.assign(loss="none"),
        "reordered": table[[*TYPES][::-1]],
        "no digest": table,
    }[change]
    path.write_bytes(table_bytes(changed))
    if change == "no digest":
        table.to_parquet(path, index=False)
    with pytest.raises(RunError, match=DAMAGED):
        read_table(path, TYPES)


def test_a_missing_text_is_not_an_empty_one_and_rows_have_an_order() -> None:
    table = make_table()
    digests = {
        table_digest(table),
        table_digest(table.assign(cell=table["cell"].fillna(""))),
        table_digest(table[::-1]),
        table_digest(table.assign(seed=table["seed"].fillna(0))),
        table_digest(table.rename(columns={"loss": "lost"})),
    }
    assert len(digests) == 5
