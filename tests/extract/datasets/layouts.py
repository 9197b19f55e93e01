"""Small copies of published data sets: the distributed folders and files, with images of two sizes.

Each maker returns what it wrote: for each split (path below the root or None, label) in the order of the lists.
"""

import json
import pickle
from collections.abc import Callable
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

Written = dict[str, list[tuple[str | None, int]]]
Maker = Callable[[Path, pytest.MonkeyPatch], tuple[Written, list[str]]]


def write_image(root: Path, name: str) -> None:
    """Write a JPEG whose name determines its pixels."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int.from_bytes(md5(name.encode()).digest()[:4])
    pixels = np.random.default_rng(seed).integers(0, 256, (6 + seed % 2, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG", quality=95)


def write_lines(root: Path, name: str, *lines: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(f"{line}\n" for line in lines))


def write_all(root: Path, written: Written) -> None:
    for of_split in written.values():
        for name, _ in of_split:
            assert name is not None
            write_image(root, name)


def digest(path: Path) -> str:
    return md5(path.read_bytes()).hexdigest()


def make_imagenet(root: Path, _: pytest.MonkeyPatch) -> tuple[Written, list[str]]:
    written: Written = {
        split: [(f"{split}/n0{label}/{split}_{index}.JPEG", label) for label in range(2) for index in range(2)]
        for split in ("train", "val")
    }
    write_all(root, written)
    torch.save(({"n00": ("tench", "Tinca tinca"), "n01": ("crane",)}, ["n00", "n01"]), root / "meta.bin")
    return written, ["tench, Tinca tinca", "crane"]


def make_cifar(reader: type[Any], key: str) -> Maker:
    def make(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Written, list[str]]:
        folder = root / reader.base_folder
        folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        written: Written = {"train": [], "test": []}
        for split, files in (("train", reader.train_list), ("test", reader.test_list)):
            for name, _ in files:
                labels = rng.integers(0, 3, 4).tolist()
                data = rng.integers(0, 256, (4, 3072)).astype(np.uint8)
                (folder / name).write_bytes(pickle.dumps({"data": data, key: labels}))
                written[split] += [(None, label) for label in labels]
            made = [[name, digest(folder / name)] for name, _ in files]
            monkeypatch.setattr(reader, f"{split}_list", made)
        classes = ["plane", "car", "bird"]
        (folder / reader.meta["filename"]).write_bytes(pickle.dumps({reader.meta["key"]: classes}))
        monkeypatch.setattr(reader, "meta", reader.meta | {"md5": digest(folder / reader.meta["filename"])})
        return written, classes

    return make


def make_places(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Written, list[str]]:
    train, val = [("/a/airfield/01.jpg", 0), ("/b/bar/02.jpg", 1), ("/a/airfield/03.jpg", 0)], [("v1.jpg", 1)]
    lists = {"places365_train_standard.txt": train, "places365_val.txt": val}
    for name, images in lists.items():
        write_lines(root, name, *(f"{image} {label}" for image, label in images))
    write_lines(root, "categories_places365.txt", "/a/airfield 0", "/b/bar 1")
    made = {split: (name, digest(root / name)) for split, name in zip(("train-standard", "val"), lists, strict=True)}
    monkeypatch.setattr(datasets.Places365, "_FILE_LIST_META", made)
    categories = ("categories_places365.txt", digest(root / "categories_places365.txt"))
    monkeypatch.setattr(datasets.Places365, "_CATEGORIES_META", categories)
    written: Written = {
        "train": [(f"data_256_standard{image}", label) for image, label in train],
        "val": [(f"val_256/{image}", label) for image, label in val],
    }
    write_all(root, written)
    return written, ["/a/airfield", "/b/bar"]


def make_cars(root: Path, _: pytest.MonkeyPatch) -> tuple[Written, list[str]]:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    written: Written = {
        "train": [(f"stanford_cars/cars_train/0{index}.jpg", index % 2) for index in range(3)],
        "test": [(f"stanford_cars/cars_test/0{index}.jpg", index % 2) for index in range(2)],
    }
    write_all(root, written)
    files = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    for split, images in written.items():
        rows = np.array(
            [(Path(str(name)).name, label + 1) for name, label in images],
            dtype=[("fname", object), ("class", np.uint8)],
        )
        savemat(folder / files[split], {"annotations": rows})
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(["AM General Hummer", "Audi"], dtype=object)})
    return written, ["AM General Hummer", "Audi"]


def make_food(root: Path, _: pytest.MonkeyPatch) -> tuple[Written, list[str]]:
    lists = {
        "train": {"apple_pie": ["apple_pie/1", "apple_pie/2"], "waffles": ["waffles/3"]},
        "test": {"apple_pie": ["apple_pie/4"], "waffles": ["waffles/5"]},
    }
    written: Written = {}
    for split, names in lists.items():
        write_lines(root, f"food-101/meta/{split}.json", json.dumps(names))
        written[split] = [
            (f"food-101/images/{name}.jpg", label) for label, images in enumerate(names.values()) for name in images
        ]
    write_all(root, written)
    return written, ["apple_pie", "waffles"]


def make_aircraft(root: Path, _: pytest.MonkeyPatch) -> tuple[Written, list[str]]:
    data = "fgvc-aircraft-2013b/data"
    classes = ["707-320", "A340-300 X"]
    lists = {"train": [(1, 0), (2, 1)], "val": [(3, 1)], "test": [(4, 0), (5, 1)]}
    lists["trainval"] = lists["train"] + lists["val"]
    write_lines(root, f"{data}/variants.txt", *classes)
    for split, images in lists.items():
        lines = (f"{number:07d} {classes[label]}" for number, label in images)
        write_lines(root, f"{data}/images_variant_{split}.txt", *lines)
    written: Written = {
        split: [(f"{data}/images/{number:07d}.jpg", label) for number, label in images]
        for split, images in lists.items()
    }
    write_all(root, written)
    return written, classes


def make_sun(root: Path, _: pytest.MonkeyPatch) -> tuple[Written, list[str]]:
    classes = ["abbey", "apse/indoor"]
    written: Written = {
        "train": [("SUN397/a/apse/indoor/sun_b.jpg", 1), ("SUN397/a/abbey/sun_a.jpg", 0)],
        "test": [("SUN397/a/abbey/sun_c.jpg", 0)],
    }
    write_all(root, written)
    write_image(root, "SUN397/a/abbey/sun_of_no_partition.jpg")
    write_lines(root, "SUN397/ClassName.txt", *(f"/a/{name}" for name in classes))
    for split, name in (("train", "Training_01"), ("test", "Testing_01")):
        write_lines(root, f"SUN397/{name}.txt", *(str(path).removeprefix("SUN397") for path, _ in written[split]))
    return written, classes


def make_dtd(root: Path, _: pytest.MonkeyPatch) -> tuple[Written, list[str]]:
    lists = {"train": ["banded/b1", "dotted/d1", "banded/b2"], "val": ["dotted/d2", "banded/b3"]}
    lists["test"] = ["banded/b4", "dotted/d3"]
    written: Written = {}
    for split, names in lists.items():
        write_lines(root, f"dtd/dtd/labels/{split}1.txt", *(f"{name}.jpg" for name in names))
        written[split] = [(f"dtd/dtd/images/{name}.jpg", int(name.startswith("dotted"))) for name in names]
    write_all(root, written)
    return written, ["banded", "dotted"]


def make_pets(root: Path, _: pytest.MonkeyPatch) -> tuple[Written, list[str]]:
    lists = {
        "trainval": [("Abyssinian_1", 0), ("american_bulldog_2", 1)],
        "test": [("american_bulldog_7", 1), ("Abyssinian_3", 0)],
    }
    for split, images in lists.items():
        lines = (f"{name} {label + 1} {label + 1} 1" for name, label in images)
        write_lines(root, f"oxford-iiit-pet/annotations/{split}.txt", *lines)
    written: Written = {
        {"trainval": "train"}.get(split, split): [
            (f"oxford-iiit-pet/images/{name}.jpg", label) for name, label in images
        ]
        for split, images in lists.items()
    }
    write_all(root, written)
    return written, ["Abyssinian", "American Bulldog"]


def make_cub(root: Path, _: pytest.MonkeyPatch) -> tuple[Written, list[str]]:
    names = ["001.Albatross/a_1.jpg", "001.Albatross/a_2.jpg", "002.Auklet/k_1.jpg", "002.Auklet/k_2.jpg"]
    in_train, labels = [1, 0, 0, 1], [0, 0, 1, 1]
    folder = "CUB_200_2011"
    write_lines(root, f"{folder}/images.txt", *(f"{i} {name}" for i, name in enumerate(names, 1)))
    write_lines(root, f"{folder}/image_class_labels.txt", *(f"{i} {label + 1}" for i, label in enumerate(labels, 1)))
    write_lines(root, f"{folder}/train_test_split.txt", *(f"{i} {flag}" for i, flag in enumerate(in_train, 1)))
    write_lines(root, f"{folder}/classes.txt", "1 001.Albatross", "2 002.Auklet")
    written: Written = {
        split: [(f"{folder}/images/{names[i]}", labels[i]) for i in range(4) if in_train[i] == wanted]
        for split, wanted in (("train", 1), ("test", 0))
    }
    write_all(root, written)
    return written, ["001.Albatross", "002.Auklet"]


def make_stl(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Written, list[str]]:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    written: Written = {}
    for split in ("train", "test"):
        labels = rng.integers(0, 2, 3)
        rng.integers(0, 256, 3 * 3 * 96 * 96).astype(np.uint8).tofile(folder / f"{split}_X.bin")
        (labels + 1).astype(np.uint8).tofile(folder / f"{split}_y.bin")
        written[split] = [(None, int(label)) for label in labels]
        made = [[f"{split}_{kind}.bin", digest(folder / f"{split}_{kind}.bin")] for kind in "Xy"]
        monkeypatch.setattr(datasets.STL10, f"{split}_list", made)
    write_lines(root, "stl10_binary/class_names.txt", "airplane", "bird")
    return written, ["airplane", "bird"]


def make_flowers(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Written, list[str]]:
    folder = root / "flowers-102"
    folder.mkdir(parents=True)
    labels, ids = [3, 1, 1, 102], {"trnid": [1, 4], "valid": [2], "tstid": [3]}
    ids = {key: numbers * 2 for key, numbers in ids.items()}  # one number alone would come back as a scalar
    savemat(folder / "setid.mat", {key: np.array([numbers]) for key, numbers in ids.items()})
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels])})
    made = datasets.Flowers102._file_dict | {
        key: (name, digest(folder / name)) for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat"))
    }
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", made)
    written: Written = {
        split: [(f"flowers-102/jpg/image_{number:05d}.jpg", labels[number - 1] - 1) for number in ids[key]]
        for split, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
    }
    write_all(root, written)
    return written, list(datasets.Flowers102.classes)


LAYOUTS: dict[str, Maker] = {
    "ImageNet": make_imagenet,
    "CIFAR10": make_cifar(datasets.CIFAR10, "labels"),
    "CIFAR100": make_cifar(datasets.CIFAR100, "fine_labels"),
    "Places365": make_places,
    "StanfordCars": make_cars,
    "Food101": make_food,
    "FGVCAircraft": make_aircraft,
    "SUN397": make_sun,
    "DTD": make_dtd,
    "OxfordIIITPet": make_pets,
    "CUB200": make_cub,
    "STL10": make_stl,
    "Flowers102": make_flowers,
}
