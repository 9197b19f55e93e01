"""Reading and writing a store at an S3 address on this machine, against raw requests, in one run.

    python benchmarks/remote.py [--mib 256] [--connections 16] [--repeats 7] [--json FILE]

Starts a small server on 127.0.0.1, in a process of its own, that keeps objects in memory. Measures, taking turns:

    read      all rows of one layer, over raw ranged requests for the same bytes, by obstore alone and by Python's HTTP
              client, on as many connections
    shuffled  the same in a random order
    write     blocks of one layer, over raw multipart uploads of the same bytes
    rows      bytes that the server sends for 64 random rows, over the bytes of those rows

Both sides share the cores with the server. So the ratios show the cost
that the store adds, not the speed of a network.
"""

import argparse
import http.client
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import obstore
from rows import Call, Row, make_parser, make_row, report, take_turns  # the files beside this one
from stand_ins import IMAGE_BYTES, draw_tokens, write_store

from tokenprobe.store import Split, open_store
from tokenprobe.store.objects import Bucket

MIB = 2**20
ADDRESS, BLOCK_ROWS, PIECE = "s3://bench/store.zarr", 64, 8 * MIB


def read_into(split: Split, out: np.ndarray, rows: np.ndarray | None = None) -> None:
    split.tokens(0, rows, out=out)


def write_all(address: str, values: np.ndarray) -> None:
    write_store(address, {"train": len(values)}, values, rows=BLOCK_ROWS, overwrite=True)


def raw_writes(values: np.ndarray) -> None:
    """Upload the same blocks in parts, one after another, as one writer's queue for one layer does."""
    bucket = Bucket("s3://bench/raw")
    for start in range(0, len(values), BLOCK_ROWS):
        data = values[start : start + BLOCK_ROWS].reshape(-1).view(np.uint8)
        obstore.put(bucket.store, f"{start}", data, use_multipart=True)


def raw_reads(port: int, names: list[str], block_bytes: int, n_connections: int, client: str) -> Call:
    """Return a function that reads all bytes of some objects by ranged requests."""
    bucket, jobs = Bucket(ADDRESS), [(name, start) for name in names for start in range(0, block_bytes, PIECE)]

    def by_python(part: list[tuple[str, int]]) -> None:
        server, out = http.client.HTTPConnection("127.0.0.1", port), bytearray(PIECE)
        for name, start in part:
            stop = min(start + PIECE, block_bytes)
            server.request("GET", f"/bench/store.zarr/{name}", headers={"Range": f"bytes={start}-{stop - 1}"})
            answer, view = server.getresponse(), memoryview(out)[: stop - start]
            while view and (n_read := answer.readinto(view)):
                view = view[n_read:]
            answer.read()

    def by_obstore(part: list[tuple[str, int]]) -> None:
        for name, start in part:
            obstore.get_range(bucket.store, name, start=start, end=min(start + PIECE, block_bytes))

    def read() -> None:
        with ThreadPoolExecutor(n_connections) as pool:
            parts = [jobs[first::n_connections] for first in range(n_connections)]
            list(pool.map(by_python if client == "python" else by_obstore, parts))

    return read


def sent(port: int) -> int:
    server = http.client.HTTPConnection("127.0.0.1", port)
    server.request("GET", "/-/sent")
    return int(server.getresponse().read())


def bytes_sent(split: Split, rows: np.ndarray, port: int) -> int:
    """Return the bytes that the server sends for some rows."""
    before = sent(port)
    split.tokens(0, rows)
    return sent(port) - before


def measure(port: int, given: argparse.Namespace) -> Iterator[Row]:
    n_images = max(BLOCK_ROWS, given.mib * MIB // IMAGE_BYTES // BLOCK_ROWS * BLOCK_ROWS)
    values = draw_tokens(n_images)
    write_all(ADDRESS, values)
    split, out = open_store(ADDRESS)["train"], np.empty(values.shape, values.dtype)
    shuffled = np.random.default_rng(0).permutation(n_images)
    names = [f"train/layer_00/patch/c.0.{block}.0.0" for block in range(n_images // BLOCK_ROWS)]
    assert (split.tokens(0) == values).all()
    of = (port, names, BLOCK_ROWS * IMAGE_BYTES, given.connections)
    calls: dict[str, Call] = {
        "read": lambda: read_into(split, out),
        "shuffled read": lambda: read_into(split, out, shuffled),
        "raw HTTP": raw_reads(*of, "python"),
        "raw obstore": raw_reads(*of, "obstore"),
    }
    found = take_turns(calls, given.repeats)
    for ours in ("read", "shuffled read"):
        for raw in ("raw HTTP", "raw obstore"):
            yield make_row(f"{ours} of {n_images} images, against {raw}", found[ours], found[raw])
    calls = {"ours": lambda: write_all("s3://bench/written.zarr", values), "raw": lambda: raw_writes(values)}
    found = take_turns(calls, given.repeats)
    yield make_row(f"write of {n_images} images, against raw multipart uploads", found["ours"], found["raw"])
    few = np.sort(shuffled[:64])
    fetched, size = bytes_sent(split, few, port), len(few) * IMAGE_BYTES
    yield make_row("bytes sent for 64 random rows, against their size", [fetched], [size], "bytes")


def main() -> None:
    parser = make_parser(__doc__, repeats=7)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--connections", type=int, default=16)
    given = parser.parse_args()
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("object_server.py")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_REGION": "us-east-1",
        }
        report("remote", measure(port, given), given.json)
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
