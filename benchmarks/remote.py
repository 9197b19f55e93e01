"""Reading and writing a store at an S3 address on this machine, against raw requests, in one run.

    python benchmarks/remote.py [--mib 256] [--connections 16] [--repeats 7] [--json FILE]

Starts a small server on 127.0.0.1, in a process of its own, that keeps objects in memory. Measures, taking turns:

    read      all rows of one layer, over raw ranged requests for the same bytes, by obstore alone and by Python's HTTP
              client, on as many connections
    shuffled  the same in a random order
    write     blocks of one layer, over raw multipart uploads of the same bytes
    rows      bytes that the server sends for 64 random rows, over the bytes of those rows

A ratio of 1 is as fast as the raw requests. Both sides share the cores with the server. So the ratios show the cost
that the store adds, not the speed of a network.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import obstore

from tokenprobe.store import BlockKey, Manifest, Split, Targets, open_store, open_writer
from tokenprobe.store.contents import Recipe, SplitInfo
from tokenprobe.store.layout import LayerShape
from tokenprobe.store.objects import Bucket

MIB = 2**20
ADDRESS, ROW = "s3://bench/store.zarr", (196, 384)
ROW_BYTES, PIECE = ROW[0] * ROW[1] * 2, 8 * MIB
Call = Callable[[], None]


def manifest(n_images: int, block_rows: int) -> Manifest:
    recipe = Recipe(
        "timm:none", {}, "0" * 64, {"input_size": [224, 224]}, "float32", "float16", {"kind": "dataset"}, []
    )
    info = SplitInfo(n_images, block_rows, "0" * 32, None, [], ["a", "b"], {"layer_00": ["patch"]})
    return Manifest(recipe, "made", 1, {"layer_00": LayerShape((14, 14), 384, 0)}, None, {"train": info}, {})


def write_all(address: str, about: Manifest, values: np.ndarray) -> None:
    info = about.splits["train"]
    targets = Targets(np.zeros(info.n_images, np.int64), [str(row) for row in range(info.n_images)])
    with open_writer(address, about, overwrite=True) as writer:
        writer.declare({"train": targets})
        for block in range(info.n_blocks):
            key = BlockKey("train", 0, block)
            writer.append(key, 0, {"patch": values[block * info.block_rows : (block + 1) * info.block_rows]})
            writer.finish_block(key, 0)
        assert writer.seal()


def read_into(split: Split, out: np.ndarray, rows: np.ndarray | None = None) -> None:
    split.tokens(0, rows, out=out)


def raw_writes(about: Manifest, values: np.ndarray) -> None:
    """Upload the same blocks in parts, one after another, as one writer's queue for one layer does."""
    info, bucket = about.splits["train"], Bucket("s3://bench/raw")
    for block in range(info.n_blocks):
        data = values[block * info.block_rows : (block + 1) * info.block_rows].reshape(-1).view(np.uint8)
        obstore.put(bucket.store, f"{block}", data, use_multipart=True)


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


def amplification(split: Split, rows: np.ndarray, port: int) -> float:
    """Return the bytes that the server sends for some rows, over the bytes of the rows."""
    before = sent(port)
    n_bytes = split.tokens(0, rows).nbytes
    return (sent(port) - before) / n_bytes


def take_turns(calls: dict[str, Call], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each call in each round; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(seconds: dict[str, list[float]], ours: str, raw: str) -> dict[str, float]:
    """Return the speed of one call over that of another: median, least and most over the rounds."""
    each = [theirs / our for our, theirs in zip(seconds[ours], seconds[raw], strict=True)]
    return {"median": median(each), "least": min(each), "most": max(each)}


def measure(port: int, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    block_rows = 64
    n_images = max(block_rows, arguments.mib * MIB // ROW_BYTES // block_rows * block_rows)
    about = manifest(n_images, block_rows)
    values = np.random.default_rng(0).standard_normal((n_images, *ROW), np.float32).astype(np.float16)
    write_all(ADDRESS, about, values)
    split, out = open_store(ADDRESS)["train"], np.empty(values.shape, values.dtype)
    shuffled = np.random.default_rng(0).permutation(n_images)
    names = [f"train/layer_00/patch/c.0.{block}.0.0" for block in range(n_images // block_rows)]
    assert (split.tokens(0) == values).all()
    of = (port, names, block_rows * ROW_BYTES, arguments.connections)
    reads = take_turns(
        {
            "ours": lambda: read_into(split, out),
            "shuffled": lambda: read_into(split, out, shuffled),
            "python": raw_reads(*of, "python"),
            "obstore": raw_reads(*of, "obstore"),
        },
        arguments.repeats,
    )
    writes = take_turns(
        {
            "ours": lambda: write_all("s3://bench/written.zarr", about, values),
            "raw": lambda: raw_writes(about, values),
        },
        arguments.repeats,
    )
    speeds = {f"{name}, MiB/s": {"median": values.nbytes / MIB / median(each)} for name, each in reads.items()}
    speeds |= {f"write {name}, MiB/s": {"median": values.nbytes / MIB / median(each)} for name, each in writes.items()}
    return {
        "read over raw HTTP": ratios(reads, "ours", "python"),
        "read over raw obstore": ratios(reads, "ours", "obstore"),
        "shuffled read over raw HTTP": ratios(reads, "shuffled", "python"),
        "shuffled read over raw obstore": ratios(reads, "shuffled", "obstore"),
        "write over raw multipart": ratios(writes, "ours", "raw"),
        "bytes for 64 random rows": {"median": amplification(split, np.sort(shuffled[:64]), port)},
        **speeds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
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
        results = measure(port, arguments)
    finally:
        server.kill()
        server.wait()
    for name, found in results.items():
        spread = f"   {found['least']:.2f} to {found['most']:.2f}" if "least" in found else ""
        print(f"{name:32} {found['median']:8.2f}{spread}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
