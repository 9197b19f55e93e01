"""The tables of a run as Parquet files. Each holds a digest of its rows, so that no changed number passes for a result.

The digest is in the metadata of the file itself: a crash cannot part the two. It is taken over values, not over bytes,
and so it is the same in every version of Arrow.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_128

from .files import damaged, read_file

KEY = b"tokenprobe"
"""Of the digest in the metadata of a file."""
NULLABLE = {pa.int64(): pd.Int64Dtype()}


def table_bytes(table: pd.DataFrame) -> bytes:
    """Return a table of text ("str"), "Int64", "int64", "float64" and "bool" columns as a Parquet file."""
    written = pa.Table.from_pandas(table, preserve_index=False)
    written = written.replace_schema_metadata({**(written.schema.metadata or {}), KEY: table_digest(table).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(written, sink, write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_table(path: Path, types: Mapping[str, str]) -> pd.DataFrame:
    """Read a table that `table_bytes` made; one without columns if there is no file.

    Args:
        path: of the file.
        types: of each column, by name, in order.

    Raises:
        RunError: the file cannot be read, is damaged, or has other columns.
    """
    data = read_file(path)
    if data is None:
        return pd.DataFrame()
    try:
        read = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
        kept = (read.schema.metadata or {}).get(KEY, b"").decode()
        table = read.replace_schema_metadata().to_pandas(types_mapper=NULLABLE.get)
        table = table[list(types)].astype(types)
        digest = table_digest(table) if read.schema.names == list(types) else "other columns"
    except Exception as error:  # damaged bytes fail in any way
        raise damaged(path, error) from error
    if digest != kept:
        raise damaged(path, "its rows are not those that were written")
    return table


def table_digest(table: pd.DataFrame) -> str:
    """Return a digest of the names and values of all columns; missing values are alike."""
    digest = xxh3_128()
    for name, column in table.items():
        missing = column.isna().to_numpy(dtype=bool)
        digest.update(f"\n{name}\n".encode())
        digest.update(missing.tobytes())
        digest.update(_values_bytes(column, missing))
    return digest.hexdigest()


def _values_bytes(column: "pd.Series[object]", missing: np.ndarray) -> bytes:
    """Return the values of a column as bytes: numbers in 64 bits; of texts each once, and where they are."""
    present = column[~missing]
    if pd.api.types.is_float_dtype(column):
        return bytes(present.to_numpy(dtype="<f8").tobytes())
    if pd.api.types.is_integer_dtype(column) or pd.api.types.is_bool_dtype(column):
        return bytes(present.to_numpy(dtype="<i8").tobytes())
    places, texts = pd.factorize(present)  # names of cells are in many rows
    return bytes(places.astype("<i8").tobytes()) + "".join(f"{text}\0" for text in texts).encode()
