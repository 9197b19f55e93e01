"""The tables of a run as Parquet files. Each file holds a digest of its rows, which reveals a changed number.

The digest is in the file's metadata, so a crash cannot separate the two. It covers values, not bytes, so it is the same
in every version of Arrow.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_128

from .files import damaged, read_file

KEY = b"tokenprobe"
"""Key of the digest in a file's metadata."""
NULLABLE = {pa.int64(): pd.Int64Dtype()}


def table_bytes(table: pd.DataFrame) -> bytes:
    """Return a table of text ("str"), "Int64", "int64", "float64" and "bool" columns as a Parquet file."""
    written = pa.Table.from_pandas(table, preserve_index=False)
    written = written.replace_schema_metadata({**(written.schema.metadata or {}), KEY: table_digest(table).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(written, sink, write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_table(
    path: Path, types: Mapping[str, str], later: Mapping[str, object] = MappingProxyType({})
) -> pd.DataFrame:
    """Read a table that `table_bytes` made. Return a table without columns if there is no file.

    Args:
        path: of the file.
        types: type of each column, by name, in order.
        later: columns that a file of an earlier version may lack, with the value that they get.

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
        found = [name for name in types if name in read.schema.names or name not in later]
        table = table[found].astype({name: types[name] for name in found})
        digest = table_digest(table) if read.schema.names == found else "other columns"
    except Exception as error:  # damaged bytes may raise any error
        raise damaged(path, error) from error
    if digest != kept:
        raise damaged(path, "its rows are not those that were written")
    return table.assign(**{name: value for name, value in later.items() if name not in found}).astype(types)


def table_digest(table: pd.DataFrame) -> str:
    """Return a digest of the names and values of all columns. All missing values count as equal."""
    digest = xxh3_128()
    for name, column in table.items():
        missing = column.isna().to_numpy(dtype=bool)
        digest.update(f"\n{name}\n".encode())
        digest.update(missing.tobytes())
        digest.update(_values_bytes(column, missing))
    return digest.hexdigest()


def _values_bytes(column: "pd.Series[object]", missing: np.ndarray) -> bytes:
    """Return a column's values as bytes: numbers in 64 bits; texts as indices, then each distinct text once."""
    present = column[~missing]
    if pd.api.types.is_float_dtype(column):
        return bytes(present.to_numpy(dtype="<f8").tobytes())
    if pd.api.types.is_integer_dtype(column) or pd.api.types.is_bool_dtype(column):
        return bytes(present.to_numpy(dtype="<i8").tobytes())
    places, texts = pd.factorize(present)  # many rows repeat a cell's name
    return bytes(places.astype("<i8").tobytes()) + "".join(f"{text}\0" for text in texts).encode()
