"""A reader written only from docs/store-format.md, with json, struct, hashlib and numpy. The package only writes."""

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenprobe.store import Targets, open_writer
from tokenprobe.testing.store_kit import DTYPES, make_contents, write

STORED = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4", "int8": "i1"}
RECIPE = ["model", "model_args", "weights", "transform", "precision", "dtype", "row_order", "prefix_names"]


class PageReader:
    """Follows the page, section by section."""

    def __init__(self, path: Path) -> None:
        self.hdf5 = path.suffix == ".h5"
        self.folder = path.with_name(f"{path.name}.blocks") if self.hdf5 else path
        lines = (self.folder / "journal.jsonl").read_bytes().split(b"\n")[:-1]
        self.journal = [json.loads(line) for line in lines]
        if self.hdf5:
            self.manifest = [entry["content"] for entry in self.journal if entry.get("file") == "manifest"][-1]
        else:
            self.manifest = json.loads((path / "zarr.json").read_text())["attributes"]

    def labels(self, split: str) -> np.ndarray:
        folder, n_rows = self.folder / split, self.manifest["splits"][split]["n_images"]
        if self.hdf5:
            labels = np.frombuffer((folder / "labels.h5").read_bytes(), "<i8", offset=2048)
            return labels if len(labels) == n_rows else labels.reshape(n_rows, -1)
        shape = json.loads((folder / "labels" / "zarr.json").read_text())["shape"]
        name = "labels/c.0" if len(shape) == 1 else "labels/c.0.0"
        return np.frombuffer((folder / name).read_bytes(), "<i8").reshape(shape)

    def ids(self, split: str) -> list[str]:
        if self.hdf5:
            return self._heap_texts(
                (self.folder / split / "ids.h5").read_bytes(), self.manifest["splits"][split]["n_images"]
            )
        data = (self.folder / split / "ids/c.0").read_bytes()
        (count,), at, texts = struct.unpack_from("<I", data), 4, []
        for _ in range(count):
            (size,) = struct.unpack_from("<I", data, at)
            texts.append(data[at + 4 : at + 4 + size].decode())
            at += 4 + size
        return texts

    def tokens(self, split: str, layer: str, kind: str, view: int) -> np.ndarray:
        dtype = self.manifest["dtype"]
        stored = self._blocks(split, layer, kind, view, STORED[dtype])
        if dtype == "bfloat16":
            return (stored.astype("<u4") << 16).view("<f4")
        if dtype == "int8":
            scale = self._blocks(split, layer, f"{kind}_scale", view, "<f2").astype("<f4")
            mean, deviation = self._channels(f"{split}/{layer}/{kind}_channels")
            return stored * scale[..., None] * deviation + mean
        return stored

    def mean(self, split: str, layer: str, view: int) -> np.ndarray:
        return self._blocks(split, layer, "mean", view, "<f4")

    def fingerprint(self, split: str, layer: str, view: int) -> str:
        info = dict(self.manifest["splits"][split])
        augmentation = [info.pop(key) for key in ("layers", "views", "augmentation")][-1]
        what: dict[str, Any] = {
            "format": 1,
            "recipe": {key: self.manifest[key] for key in RECIPE},
            "split": info,
            "layer": int(layer.removeprefix("layer_")),
            "view": view,
        }
        if view:
            what["augmentation"] = augmentation
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def _blocks(self, split: str, layer: str, kind: str, view: int, dtype: str) -> np.ndarray:
        info, shape = self.manifest["splits"][split], self.manifest["layers"][layer]
        n_tokens = {"patch": shape["grid"][0] * shape["grid"][1], "prefix": shape["n_prefix"]}
        row: dict[str, tuple[int, ...]] = {"mean": (shape["dim"],)} | {
            f"{name}_scale": (n,) for name, n in n_tokens.items()
        }
        row |= {name: (n, shape["dim"]) for name, n in n_tokens.items()}
        whole = (info["block_rows"], *row[kind])
        blocks = []
        for block in range(-(-info["n_images"] // info["block_rows"])):
            name = f"{view}.{block}.h5" if self.hdf5 else f"c.{view}.{block}" + ".0" * len(row[kind])
            data = (self.folder / split / layer / kind / name).read_bytes()
            n_bytes = int(np.prod(whole)) * np.dtype(dtype).itemsize
            start = (4096 if n_bytes >= 4096 else 2048) if self.hdf5 else 0
            assert len(data) == start + n_bytes
            blocks.append(np.frombuffer(data, dtype, offset=start).reshape(whole))
        return np.concatenate(blocks)[: info["n_images"]]

    def _channels(self, array: str) -> np.ndarray:
        data = (self.folder / (f"{array}.h5" if self.hdf5 else f"{array}/c.0.0")).read_bytes()
        return np.frombuffer(data, "<f4", offset=2048 if self.hdf5 else 0).reshape(2, -1)

    def _heap_texts(self, data: bytes, n_rows: int) -> list[str]:
        texts = []
        for row in range(n_rows):
            length, heap, number = struct.unpack_from("<IQI", data, 2048 + 16 * row)
            texts.append(self._heap_object(data, heap, number)[:length].decode() if heap else "")
        return texts

    def _heap_object(self, data: bytes, heap: int, wanted: int) -> bytes:
        assert data[heap : heap + 4] == b"GCOL"
        at, end = heap + 16, heap + struct.unpack_from("<Q", data, heap + 8)[0]
        while at < end:
            number, length = struct.unpack_from("<H6xQ", data, at)
            if number == wanted:
                return data[at + 16 : at + 16 + length]
            at += 16 + -(-length // 8) * 8
        raise AssertionError(wanted)


@pytest.mark.parametrize("n_classes", [3, 400])
def test_labels_with_an_axis_of_classes_are_read_from_the_page(place: Callable[[str], Path], n_classes: int) -> None:
    contents = make_contents(counts={"train": 11})
    contents.stored["train/labels"] = np.random.default_rng(0).integers(0, 2, (11, n_classes))
    reader = PageReader(write(place("s"), contents))
    np.testing.assert_array_equal(reader.labels("train"), contents.stored["train/labels"])


@pytest.mark.parametrize("block_rows", [4, 40])  # files below and above 4096 bytes
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_reader_written_from_the_page_reads_all_of_a_store(
    place: Callable[[str], Path], dtype: str, block_rows: int
) -> None:
    contents = make_contents(dtype, counts={"train": 90, "test": 3}, block_rows=block_rows)
    reader = PageReader(write(place("s"), contents))
    assert reader.manifest["complete"] is True
    for split, info in reader.manifest["splits"].items():
        assert reader.ids(split) == contents.ids(split)
        np.testing.assert_array_equal(reader.labels(split), contents.stored[f"{split}/labels"])
        for layer in info["layers"]:
            for view in range(info["views"]):
                for kind in ("patch", "prefix"):
                    read = reader.tokens(split, layer, kind, view)
                    wanted = contents.returned[f"{split}/{layer}/{kind}"][view]
                    tolerance = {"rtol": 2**-10, "atol": 2e-5} if dtype == "int8" else {"rtol": 0, "atol": 0}
                    np.testing.assert_allclose(read, wanted, **tolerance)
                mean = contents.returned[f"{split}/{layer}/mean"][view]
                np.testing.assert_array_equal(reader.mean(split, layer, view), mean)
                assert reader.fingerprint(split, layer, view) == reader.manifest["fingerprints"][split][layer][view]


def test_ids_of_any_length_and_number_are_where_the_page_says(place: Callable[[str], Path]) -> None:
    ids = ["", "a/b c.png", "Käfer/蜂.png", "x" * 5000, *(f"train/{row:05d}.png" for row in range(1000))]
    contents, path = make_contents(counts={"train": len(ids), "test": 1}), place("s")
    with open_writer(path, contents.part({"train": {"layer_00": ["mean"]}}).manifest) as writer:
        writer.declare({"train": Targets(contents.stored["train/labels"], ids)})
    reader = PageReader(path)
    assert reader.ids("train") == ids
    assert reader.manifest["complete"] is False


def test_the_page_names_every_key_of_the_manifest_and_of_a_split() -> None:
    page = (Path(__file__).parents[2] / "docs/store-format.md").read_text()
    manifest = make_contents("int8").manifest.to_json()
    for key in {*manifest, *manifest["splits"]["train"]}:
        assert f"`{key}`" in page, key
    for dtype in DTYPES:
        assert f"| `{dtype}` |" in page
