"""Labels, ids and channels: with a journal, one flipped bit is an error. Impossible values are always an error."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from tokenprobe.errors import StoreError
from tokenprobe.store import open_store, open_writer
from tokenprobe.store.checked import UnfitError
from tokenprobe.store.export import export_store, select
from tokenprobe.store.formats import store_files
from tokenprobe.store.small import check_labels
from tokenprobe.testing.store_kit import declare, folder_of, make_contents, write

Place = Callable[[str], Path]
READERS = {
    "labels": lambda store: store["train"].labels,
    "ids": lambda store: store["train"].ids,
    "layer_00/patch_channels": lambda store: store["train"].tokens(0, [0]),
}


def flip(path: Path, offset: int = -1) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def values_of(path: Path, array: str) -> Path:
    """Return the file that holds the values of a small array."""
    return folder_of(path) / store_files(path).whole_names(f"train/{array}")[-1]


@pytest.mark.parametrize("array", READERS)
@pytest.mark.parametrize("repairable", [True, False])
def test_a_flipped_bit_is_an_error_that_names_the_file_and_what_to_do(
    place: Place, array: str, repairable: bool
) -> None:
    contents, path = make_contents("int8"), write(place("s"), make_contents("int8"))
    if repairable:
        with open_writer(path, contents.manifest) as writer:
            writer.journal.add_event("start", config={"model": "timm:none"})
    READERS[array](open_store(path))
    file = values_of(path, array)
    offset = {".zarr": -8, ".h5": 2048}[path.suffix] if array == "labels" else -1
    flip(file, offset)
    advice = (
        "mend it with probe verify --repair" if repairable else "no journal records how it was made, so make it again"
    )
    message = f"^'{file}' is damaged \\(its bytes differ from those that were written\\); {advice}"
    with pytest.raises(StoreError, match=message):
        READERS[array](open_store(path))


def test_the_metadata_of_labels_are_compared_too(tmp_path: Path) -> None:
    path = write(tmp_path / "s.zarr", make_contents())
    metadata = path / "train/labels/zarr.json"
    metadata.write_text(metadata.read_text().replace('"int64"', '"uint8"'))
    with pytest.raises(StoreError, match=f"^'{metadata}' is damaged .its bytes differ from those that were written"):
        _ = open_store(path)["train"].labels


def test_damaged_ids_are_not_taken_for_other_images(place: Place) -> None:
    """The advice for such metadata is to overwrite the store."""
    contents, path = make_contents(), place("s")
    write(path, contents)
    flip(values_of(path, "ids"))
    with pytest.raises(StoreError, match=r"is damaged \(its bytes"), open_writer(path, contents.manifest) as writer:
        declare(writer, contents)


@pytest.mark.parametrize("array", ["labels", "ids"])
def test_a_store_without_such_a_record_is_read_as_it_is(place: Place, array: str) -> None:
    contents, path = make_contents(), write(place("s"), make_contents())
    journal = folder_of(path) / "journal.jsonl"
    kept = [line for line in journal.read_bytes().splitlines(keepends=True) if f"train/{array}".encode() not in line]
    for content in (b"".join(kept), b""):
        journal.write_bytes(content)
        split = open_store(path)["train"]
        np.testing.assert_array_equal(split.labels, contents.stored["train/labels"])
        assert split.ids == contents.ids("train")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2**40, 1], r"the label in row 2 is 1099511627776; expected 0 to 2, for 3 classes"),
        ([0, -1, 2, 1], r"the label in row 1 is -1; expected 0 to 2, for 3 classes"),
        ([0, 1, 3, 1], r"the label in row 2 is 3; expected 0 to 2"),
        ([0, 1, 2], r"labels are int64 of shape \(3,\); expected int64 of \(4,\) or \(4, 3\)"),
        ([[0], [1], [1], [0]], r"labels are int64 of shape \(4, 1\)"),
        ([[0, 0, 1]] * 3 + [[0, 2, 0]], r"the label in row 3 is 2; expected 0 or 1"),
        ([[0, 0, 1]] * 3 + [[-1, 0, 0]], r"the label in row 3 is -1; expected 0 or 1"),
        ([0.0, 1.0, 2.0, 1.0], r"labels are float64 of shape \(4,\)"),
    ],
)
def test_labels_that_cannot_be_are_refused(labels: list[object], message: str) -> None:
    with pytest.raises(UnfitError, match=f"^{message}"):
        check_labels(np.array(labels), n_images=4, n_classes=3)


def test_labels_that_can_be_are_fine() -> None:
    check_labels(np.array([0, 2, 1, 1]), 4, 3)
    check_labels(np.array([[0, 1, 1]] * 4), 4, 3)
    check_labels(np.array([[1]] * 4), 4, 1)


@pytest.mark.parametrize("place_of_copy", ["archive", "address", "no journal"])
def test_a_label_out_of_range_is_refused_wherever_it_is(place: Place, tmp_path: Path, place_of_copy: str) -> None:
    contents, path = make_contents(), place("s")
    contents.stored["train/labels"][3] = 2**40
    write(path, contents)
    opened: str | Path = path
    if place_of_copy == "no journal":
        (folder_of(path) / "journal.jsonl").unlink()
    elif place_of_copy == "archive" or path.suffix == ".h5":
        export_store(open_store(path), tmp_path / "a.zarr", "zarr", select(open_store(path), "zarr"))
        opened = tmp_path / "a.zarr"
    if place_of_copy == "address":
        opened = f"file://{opened}"
    with pytest.raises(StoreError, match=r"train/labels' is damaged \(the label in row 3 is 1099511627776; expected 0"):
        _ = open_store(opened)["train"].labels


def test_ids_and_channels_of_another_number_are_refused(place: Place) -> None:
    contents, path = make_contents("int8"), place("s")
    contents.stored["train/layer_00/patch_channels"] = np.full((2, 5), np.nan, np.float32)
    write(path, contents)
    with pytest.raises(StoreError, match=r"patch_channels' is damaged \(channels are float32 of shape \(2, 5\); exp"):
        READERS["layer_00/patch_channels"](open_store(path))
    (folder_of(path) / "journal.jsonl").unlink()
    store_files(path).write_whole("train/ids", ["only", "two"])
    with pytest.raises(StoreError, match=r"train/ids' is damaged \(ids are .* of shape \(2,\); expected text of"):
        READERS["ids"](open_store(path))


def test_labels_of_a_zarr_store_are_the_same_read_by_zarr_and_without_it(tmp_path: Path) -> None:
    path = write(tmp_path / "s.zarr", make_contents())
    np.testing.assert_array_equal(
        open_store(path)["train"].labels, zarr.open_array(path / "train/labels")[:], strict=True
    )
    metadata = json.loads((path / "train/labels/zarr.json").read_text())
    metadata["data_type"] = "int32"
    (path / "train/labels/zarr.json").write_text(json.dumps(metadata))
    (path / "journal.jsonl").unlink()
    with pytest.raises(StoreError, match=r"train/labels' is damaged"):
        _ = open_store(path)["train"].labels


def test_labels_are_writable_as_any_array(place: Place) -> None:
    labels = open_store(write(place("s"), make_contents()))["train"].labels
    labels[0] = 1


def test_a_label_file_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    """A virtual dataset, or values in another file, could show numbers from any of the user's files."""
    path = write(tmp_path / "s.h5", make_contents())
    (folder_of(path) / "journal.jsonl").unlink()
    (tmp_path / "secret").write_bytes(np.arange(11, dtype="<i8").tobytes())
    labels = folder_of(path) / "train/labels.h5"
    layout = h5py.VirtualLayout((11,), "<i8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "rows", (11,), "<i8")
    makers: list[Callable[[h5py.File], object]] = [
        lambda file: file.create_virtual_dataset("rows", layout, fillvalue=0),
        lambda file: file.create_dataset("rows", (11,), "<i8", external=[(str(tmp_path / "secret"), 0, 88)]),
        lambda file: file.create_dataset("rows", (2**40,), "<i8", chunks=(1,)),
        lambda file: file.__setitem__("rows", h5py.ExternalLink(str(tmp_path / "none.h5"), "rows")),
        lambda file: file.create_group("rows"),
    ]
    for make in makers:
        with h5py.File(labels, "w") as file:
            make(file)
        with pytest.raises(StoreError, match=f"^'{labels}' is damaged "):
            _ = open_store(path)["train"].labels
