"""Published data sets, in small copies of their layouts: against what was written, and against torchvision's pixels."""

import sys
import tarfile
import zipfile
from collections.abc import Iterator
from functools import partial
from hashlib import md5
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from tokenprobe.errors import InputError, MissingError
from tokenprobe.extract.datasets import open_dataset
from tokenprobe.extract.datasets.from_torchvision import ARRAYS, PUBLISHED

from .layouts import LAYOUTS

FEW = {"FGVCAircraft": ["train", "val"], "DTD": ["train", "val"]}
"""Default splits of data sets that have more: those of the published tables."""


def test_every_data_set_has_a_layout_here() -> None:
    assert LAYOUTS.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", LAYOUTS)
def test_splits_labels_and_classes_are_those_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, classes = LAYOUTS[name](tmp_path, monkeypatch)
    source = open_dataset(f"torchvision:{name}?root={tmp_path}")
    assert (source.name, source.classes) == (f"torchvision:{name}", classes)
    assert source.splits == FEW.get(name, sorted(written))
    everything = open_dataset(f"torchvision:{name.lower()}?root={tmp_path}&splits={','.join(written)}")
    assert everything.splits == sorted(written)
    for split, wanted in written.items():
        images = everything.images(split)
        ids = [path or f"{split}/{index:06d}" for index, (path, _) in enumerate(wanted)]
        assert images.ids == ids
        assert (images.labels.dtype, images.labels.tolist()) == (np.int64, [label for _, label in wanted])


@pytest.mark.parametrize("name", LAYOUTS)
def test_pixels_are_those_that_torchvision_reads(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, _ = LAYOUTS[name](tmp_path, monkeypatch)
    source, published = open_dataset(f"torchvision:{name}?root={tmp_path}"), PUBLISHED[name]
    for split in source.splits:
        source.images(split)
        theirs = published.reader if issubclass(published.reader, datasets.VisionDataset) else None
        for index, (path, label) in enumerate(written[split]):
            image = np.asarray(source.load(split, index).convert("RGB"))
            if theirs is not None:
                pixels, target = theirs(tmp_path, **published.splits[split])[index]
                assert target == label
            else:
                pixels = Image.open(tmp_path / str(path)).convert("RGB")
            np.testing.assert_array_equal(image, np.asarray(pixels))


@pytest.mark.parametrize("name", ["CIFAR10", "STL10", "CUB200", "Places365"])
def test_content_is_that_of_the_split_and_changes_with_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, _ = LAYOUTS[name](tmp_path / "a", monkeypatch)
    LAYOUTS[name](tmp_path / "b", monkeypatch)
    one, other = (open_dataset(f"torchvision:{name}?root={tmp_path / root}") for root in "ab")
    contents = [one.images(split).content for split in one.splits]
    assert contents == [other.images(split).content for split in one.splits]
    assert len(set(contents)) == 2
    if not issubclass(PUBLISHED[name].reader, ARRAYS):
        Image.new("RGB", (50, 50)).save(tmp_path / "a" / str(written["train"][0][0]))
        again = open_dataset(f"torchvision:{name}?root={tmp_path / 'a'}")
        assert again.images("train").content not in contents


def test_the_spec_opens_the_same_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["DTD"](tmp_path / "data", monkeypatch)
    monkeypatch.chdir(tmp_path)
    spec = open_dataset("torchvision:dtd?splits=val").spec
    assert spec == f"torchvision:DTD?splits=val&root={tmp_path}/data"
    monkeypatch.chdir("/")
    assert open_dataset(spec).images("val").labels.tolist() == [1, 0]


def test_an_image_that_is_not_there_is_listed_and_fails_to_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LAYOUTS["CUB200"](tmp_path, monkeypatch)
    (tmp_path / "CUB_200_2011/images/001.Albatross/a_1.jpg").unlink()
    source = open_dataset(f"torchvision:CUB200?root={tmp_path}")
    assert source.images("train").ids[0] == "CUB_200_2011/images/001.Albatross/a_1.jpg"
    with pytest.raises(FileNotFoundError):
        source.load("train", 0)


def test_partitions_of_sun397_may_lie_beside_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, _ = LAYOUTS["SUN397"](tmp_path, monkeypatch)
    for name in ("Training_01.txt", "Testing_01.txt"):
        (tmp_path / "SUN397" / name).rename(tmp_path / name)
    images = open_dataset(f"torchvision:SUN397?root={tmp_path}").images("train")
    assert list(zip(images.ids, images.labels.tolist(), strict=True)) == written["train"]


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve the files of a folder to this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_data_set_is_downloaded_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """torchvision's own downloader fetches the files and checks their checksums."""
    made, root = tmp_path / "made", tmp_path / "root"
    root.mkdir()
    LAYOUTS["DTD"](made, monkeypatch)
    with tarfile.open(tmp_path / "dtd.tar.gz", "w:gz") as archive:
        archive.add(made / "dtd" / "dtd", "dtd")
    monkeypatch.setattr(datasets.DTD, "_URL", f"{address}/dtd.tar.gz")
    monkeypatch.setattr(datasets.DTD, "_MD5", md5((tmp_path / "dtd.tar.gz").read_bytes()).hexdigest())
    source = open_dataset(f"torchvision:DTD?root={root}&download=true")
    assert source.images("train").labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", ["CUB200", "SUN397"])
def test_what_torchvision_lacks_is_downloaded_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    made, root = tmp_path / "made", tmp_path / "root"
    root.mkdir()
    written, _ = LAYOUTS[name](made, monkeypatch)
    reader = PUBLISHED[name].reader
    if name == "SUN397":
        with zipfile.ZipFile(tmp_path / "archive.zip", "w") as lists:
            for file in (made / "SUN397").glob("T*_01.txt"):
                lists.write(file, file.name)
                file.unlink()
        (made / "SUN397").rename(root / "SUN397")
        monkeypatch.setattr(reader, "url", f"{address}/archive.zip")
    else:
        with tarfile.open(tmp_path / "archive.tgz", "w:gz") as archive:
            archive.add(made / "CUB_200_2011", "CUB_200_2011")
        monkeypatch.setattr(reader, "url", f"{address}/archive.tgz")
    archive_file = next(tmp_path.glob("archive.*"))
    monkeypatch.setattr(reader, "md5", md5(archive_file.read_bytes()).hexdigest())
    images = open_dataset(f"torchvision:{name}?root={root}&download=true").images("test")
    assert list(zip(images.ids, images.labels.tolist(), strict=True)) == written["test"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_data_that_are_not_there_are_named(name: str, tmp_path: Path) -> None:
    or_fetch = "" if name in ("ImageNet", "StanfordCars") else ", or add download=true"  # these two cannot be fetched
    message = (
        rf"^cannot open torchvision:{name} in '.*' \(.+\); put it there as distributed, or give another "
        rf"\?root=FOLDER{or_fetch}$"
    )
    with pytest.raises(MissingError, match=message):
        open_dataset(f"torchvision:{name}?root={tmp_path}")


def test_lists_of_partitions_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["SUN397"](tmp_path, monkeypatch)
    (tmp_path / "SUN397" / "Training_01.txt").unlink()
    with pytest.raises(
        MissingError, match=r"no list Training_01.txt in '.*SUN397' or beside it; it is in Partitions.zip"
    ):
        open_dataset(f"torchvision:SUN397?root={tmp_path}")


def test_splits_of_other_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["DTD"](tmp_path, monkeypatch)
    (tmp_path / "dtd/dtd/labels/train1.txt").write_text("banded/b1.jpg\n")
    message = (
        r"^split 'train' of 'torchvision:DTD.*' has other classes than 'val', such as 'dotted'; put the whole data set "
        "there, or read its class folders as folder:PATH$"
    )
    with pytest.raises(InputError, match=message):
        open_dataset(f"torchvision:DTD?root={tmp_path}").images("train")


def test_a_package_that_a_reader_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["Flowers102"](tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(InputError, match=r"^torchvision:Flowers102 needs the package scipy: pip install scipy$"):
        open_dataset(f"torchvision:Flowers102?root={tmp_path}")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("CIFAR11", "^unknown torchvision data set 'CIFAR11'; known: CIFAR10, CIFAR100, "),
        ("DTD?rot=x", "^unknown option of torchvision: 'rot'; known: root, download, splits$"),
        ("DTD?download=yes", "^unknown value of download 'yes'; known: true, false$"),
        ("DTD?splits=train,vall", "^unknown split of torchvision:DTD 'vall'; known: (val|train), "),
    ],
)
def test_wrong_specs_list_what_is_known(argument: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_dataset(f"torchvision:{argument}")


def test_labels_without_a_class_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["CUB200"](tmp_path, monkeypatch)
    labels = tmp_path / "CUB_200_2011" / "image_class_labels.txt"
    for label, found in (("0", "-1 to 1"), ("3", "1 to 2")):
        labels.write_text(f"1 1\n2 {label}\n3 2\n4 2\n")
        with pytest.raises(
            InputError, match=rf"^split 'test' of 'torchvision:CUB.*' has labels from {found}, but only 2 cl"
        ):
            open_dataset(f"torchvision:CUB200?root={tmp_path}").images("test")
