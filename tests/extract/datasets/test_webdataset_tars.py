"""Samples in tars: against the samples that the package `webdataset` streams from the same files."""

import gzip
import io
import multiprocessing
import os
import re
import signal
import tarfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import braceexpand
import numpy as np
import pytest
import webdataset
from PIL import Image
from webdataset import autodecode, tariterators

from tokenprobe.errors import InputError, MissingError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.datasets import open_dataset
from tokenprobe.store import open_store

Members = list[tuple[str, bytes]]


def encoded(seed: int, *, form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (5 + seed % 2, 6, 3)).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, format=form)
    return file.getvalue()


def write_tar(path: Path, members: Members) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def stream(tar: str) -> list[dict[str, Any]]:
    """Return webdataset's decoded samples of a tar. (`WebDataset` itself leaves the file open.)"""
    decode = autodecode.Decoder([autodecode.imagehandler("pil")])
    with open(tar, "rb") as file:
        members = [member | {"__url__": tar} for member in tariterators.tar_file_iterator(file)]
    return [decode(sample) for sample in tariterators.group_by_keys(members)]


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Write three tars of 4, 3 and 5 samples of 3 classes with webdataset's own writer; return their pattern."""
    seed = 0
    for shard, n_samples in enumerate((4, 3, 5)):
        with webdataset.TarWriter(str(tmp_path / f"train-{shard:02d}.tar")) as writer:
            for _ in range(n_samples):
                sample = {"__key__": f"some/n{seed:04d}", "png": encoded(seed), "cls": seed % 3, "json": {"seed": seed}}
                writer.write(sample)
                seed += 1
    return f"{tmp_path}/train-{{00..02}}.tar"


def test_samples_are_those_that_webdataset_streams(shards: str) -> None:
    source = open_dataset(f"wds:{shards}")
    theirs = [sample for tar in braceexpand.braceexpand(shards) for sample in stream(tar)]
    listed = source.images("train")
    assert (source.name, source.splits, source.classes) == ("wds:train-{00..02}.tar", ["train"], ["0", "1", "2"])
    assert listed.ids == [sample["__key__"] for sample in theirs]
    assert (listed.labels.dtype, listed.labels.tolist()) == (np.int64, [sample["cls"] for sample in theirs])
    for index in (11, 0, 5, 4):  # in any order
        np.testing.assert_array_equal(np.asarray(source.load("train", index)), np.asarray(theirs[index]["png"]))


def test_members_that_are_no_part_of_a_sample_are_passed_over_as_webdataset_does(tmp_path: Path) -> None:
    members = [
        ("__meta__/x.cls", b"7"),
        ("README", b"no suffix"),
        ("a/b.v2/one.PNG", encoded(1)),
        ("a/b.v2/one.cls", b"1\n"),
        ("./two.seg.png", encoded(9)),
        ("./two.png", encoded(2)),
        ("./two.cls", b"0"),
    ]
    write_tar(tmp_path / "a.tar", members)
    source = open_dataset(f"wds:{tmp_path}/a.tar?image=png")
    theirs = stream(f"{tmp_path}/a.tar")
    listed = source.images("train")
    assert listed.ids == [sample["__key__"] for sample in theirs]
    assert listed.labels.tolist() == [sample["cls"] for sample in theirs] == [1, 0]
    for index in range(2):
        np.testing.assert_array_equal(np.asarray(source.load("train", index)), np.asarray(theirs[index]["png"]))


def test_splits_and_labels_are_named_by_options(shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, names in (("train", ["dog", "ant"]), ("val", ["bee"])):
        members = [
            (f"{i}.{kind}", data)
            for i, name in enumerate(names)
            for kind, data in (("jpg", encoded(i, form="JPEG")), ("txt", name.encode()))
        ]
        write_tar(tmp_path / f"{split}.tar", members)
    monkeypatch.chdir(tmp_path)
    source = open_dataset("wds:train.tar?val=v*.tar&label=txt")
    assert (source.splits, source.classes) == (["train", "val"], ["ant", "bee", "dog"])
    assert source.images("train").labels.tolist() == [2, 0]
    assert source.images("val").labels.tolist() == [1]
    assert source.spec == f"wds:{tmp_path}/train.tar?val={tmp_path}/v*.tar&label=txt"
    monkeypatch.chdir("/")
    assert open_dataset(source.spec).images("val").content == source.images("val").content


def test_keys_that_tars_share_are_told_apart_by_the_tar(tmp_path: Path) -> None:
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", [("0.png", encoded(0)), ("0.cls", b"0")])
    assert open_dataset(f"wds:{tmp_path}/{{a,b}}.tar").images("train").ids == ["a.tar/0", "b.tar/0"]
    write_tar(tmp_path / "c" / "a.tar", [("0.png", encoded(0)), ("0.cls", b"0")])
    with pytest.raises(InputError, match=r"^sample 'a.tar/0' occurs more than once in split 'train' of 'wds:.*'; each"):
        open_dataset(f"wds:{tmp_path}/{{a,c/a}}.tar").images("train")


def test_content_changes_with_a_size_a_label_and_a_key(tmp_path: Path) -> None:
    forms = [("0", encoded(0), b"0"), ("1", encoded(0), b"0"), ("0", encoded(0) + b" ", b"0"), ("0", encoded(0), b"1")]
    contents = []
    for number, (key, image, label) in enumerate([*forms, forms[0]]):
        write_tar(tmp_path / f"{number}.tar", [(f"{key}.png", image), (f"{key}.cls", label)])
        contents.append(open_dataset(f"wds:{tmp_path}/{number}.tar").images("train").content)
    assert contents[0] == contents[-1]
    assert len(set(contents)) == 4


def test_through_a_store_in_workers_with_a_damaged_image(
    tiny_config: Callable[..., ExtractConfig], shards: str, tmp_path: Path
) -> None:
    write_tar(tmp_path / "train-03.tar", [("bad.png", b"no image"), ("bad.cls", b"1")])
    pattern = shards.replace("02}", "03}")
    config: dict[str, Any] = {"data": f"wds:{pattern}", "layers": "0", "workers": 1}
    with pytest.raises(InputError, match=r"^cannot read image 'bad' of split 'train' in 'wds:.*UnidentifiedImageError"):
        extract(tiny_config(**config))
    store = open_store(extract(tiny_config(**config, skip_bad_images=True)))
    whole = open_store(extract(tiny_config(**config | {"data": f"wds:{shards}"}, out=tmp_path / "whole.zarr")))
    assert store.manifest.splits["train"].skipped == ["bad"]
    assert store["train"].ids == whole["train"].ids
    assert store["train"].labels.tolist() == [int(key[-4:]) % 3 for key in store["train"].ids]
    np.testing.assert_array_equal(store["train"].tokens(0), whole["train"].tokens(0))


def test_a_tar_cut_after_it_was_listed_fails_to_load(shards: str, tmp_path: Path) -> None:
    source = open_dataset(f"wds:{shards}")
    (tmp_path / "train-00.tar").write_bytes((tmp_path / "train-00.tar").read_bytes()[:2000])
    with pytest.raises(EOFError, match=r"bytes at \d+; the tar was cut short$"):
        source.load("train", 3)


@pytest.mark.parametrize("kind", ["gzip", "words", "cut"])
def test_what_is_no_plain_tar_is_refused(shards: str, tmp_path: Path, kind: str) -> None:
    whole = (tmp_path / "train-01.tar").read_bytes()
    (tmp_path / "train-01.tar").write_bytes(
        {"gzip": gzip.compress(whole), "words": b"x" * 2000, "cut": whole[:3000]}[kind]
    )
    with pytest.raises(
        InputError, match=r"train-01.tar' is not a whole, plain tar file \(.+\); a compressed tar cannot be"
    ):
        open_dataset(f"wds:{shards}")


def ignores_ctrl_c(pid: int) -> bool:
    mask = re.search(r"^SigIgn:\t(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return mask is not None and bool(int(mask[1], 16) & 1 << (signal.SIGINT - 1))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="one core reads the tars in this process")
def test_ctrl_c_while_headers_are_read_is_for_the_main_process(tmp_path: Path) -> None:
    """Pipes stand in for tars: each holds the worker that opens it until this test opens it too."""
    pipes = [tmp_path / name for name in ("a.tar", "b.tar")]
    for pipe in pipes:
        os.mkfifo(pipe)
    ignoring: list[bool] = []

    def look() -> None:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and ignoring != [True, True]:
            ignoring[:] = [ignores_ctrl_c(worker.pid or 0) for worker in multiprocessing.active_children()]
            time.sleep(0.01)
        for pipe in pipes:
            pipe.open("wb").close()

    looking = Thread(target=look, daemon=True)
    looking.start()
    with pytest.raises(OSError, match="Illegal seek"):  # in a pipe
        open_dataset(f"wds:{tmp_path}/*.tar")
    looking.join(10)
    assert ignoring == [True, True]


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        (
            [("0.png", b""), ("0.txt", b"")],
            "",
            "has the members png, txt; expected one image and the label .cls; name others",
        ),
        ([("0.cls", b"0")], "", "^sample '0' of '.*a.tar' has the members cls; expected one image and"),
        (
            [("0.a.png", b""), ("0.b.png", b""), ("0.cls", b"0")],
            "",
            "has the members a.png, b.png, cls; expected one image",
        ),
        ([("0.png", b""), ("0.cls", b"0")], "?image=jpg", "has the members png, cls; expected .jpg and the label .cls"),
        (
            [("0.png", b""), ("0.cls", b"\xff")],
            "",
            "^the label of sample '0' of '.*a.tar' is not text, or too long; name another",
        ),
        ([("0.png", b""), ("0.cls", b"-2")], "", "^label -2 in 'wds:.*': integers are class indices"),
    ],
)
def test_samples_of_another_form_are_refused(tmp_path: Path, members: Members, options: str, message: str) -> None:
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(InputError, match=message):
        open_dataset(f"wds:{tmp_path}/a.tar{options}")


def test_missing_tars_are_named(shards: str, tmp_path: Path) -> None:
    message = r"^no file at '.*train-03.tar'; expected local tars at '.*train-\{00..03\}.tar'$"
    with pytest.raises(MissingError, match=message):
        open_dataset("wds:" + shards.replace("02}", "03}"))
    with pytest.raises(MissingError, match=r"^no file at '.*/x\*.tar'; expected local tars at"):
        open_dataset(f"wds:{tmp_path}/x*.tar")


def header(name: str, size: int, *, octal: bytes | None = None) -> bytes:
    """Build the header of a member by hand; `octal` replaces its size field, and the checksum is correct."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = octal if octal is not None else f"{size:011o}\0".encode()
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def base_256(size: int) -> bytes:
    return (size % 256**12 | (128 if size >= 0 else 255) << 88).to_bytes(12)


@pytest.mark.parametrize("size", [2**63, 2**63 - 512, 2**80, 2**40, -512, -(2**40)])
@pytest.mark.parametrize("member", ["0.png", "0.cls"])
def test_a_size_that_no_file_has_is_refused(tmp_path: Path, member: str, size: int) -> None:
    """A negative size must not make tarfile read the same header forever."""
    other = "0.cls" if member == "0.png" else "0.png"
    (tmp_path / "a.tar").write_bytes(header(other, 0) + header(member, 0, octal=base_256(size)) + bytes(1024))
    with pytest.raises(InputError, match=r"a\.tar' (is not a whole, plain tar|is not text, or too long)"):
        open_dataset(f"wds:{tmp_path}/a.tar")


def test_a_damaged_header_is_no_end(tmp_path: Path) -> None:
    """tarfile alone would silently return only the first of two samples."""
    write_tar(
        tmp_path / "a.tar", [(f"{i}.{kind}", data) for i in "01" for kind, data in (("png", b"x"), ("cls", b"0"))]
    )
    whole = bytearray((tmp_path / "a.tar").read_bytes())
    assert len(open_dataset(f"wds:{tmp_path}/a.tar").images("train").ids) == 2
    whole[4 * 512 + 3] ^= 255
    (tmp_path / "a.tar").write_bytes(whole)
    with pytest.raises(InputError, match=r"is not a whole, plain tar file \(no member's header at byte 2048\)"):
        open_dataset(f"wds:{tmp_path}/a.tar")


def test_two_members_of_one_name_are_refused_as_webdataset_does(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("0.png", b"x"), ("0.cls", b"0"), ("0.png", b"y"), ("0.cls", b"1")])
    with pytest.raises(InputError, match=r"^sample '0' of '.*a.tar' has two members .png; each sample needs its own"):
        open_dataset(f"wds:{tmp_path}/a.tar")
    with pytest.raises(ValueError, match="duplicate file name in tar file"):
        stream(f"{tmp_path}/a.tar")


@pytest.mark.parametrize("name", ["\udcff0.png", "a\0b.png"])
def test_a_key_that_is_no_text_is_refused(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("0.png")
        member.pax_headers = {"path": name}
        tar.addfile(member)
    with pytest.raises(InputError, match=r"^the name of member '.*' of '.*a.tar' is not text in UTF-8; rename it$"):
        open_dataset(f"wds:{tmp_path}/a.tar")


def test_suffixes_of_options_are_those_of_members_in_any_case(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("0.Seg.PNG", b"x"), ("0.JPG", encoded(0, form="JPEG")), ("0.Txt", b"dog")])
    for options in ("label=TXT&image=Jpg", "label=.txt&image=.JPG"):
        source = open_dataset(f"wds:{tmp_path}/a.tar?{options}")
        assert source.classes == ["dog"]
        assert source.load("train", 0).size == (6, 5)


def test_a_pointer_of_git_lfs_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(
        InputError, match=r"^'.*a.tar' is a Git LFS pointer in place of the file; fetch the file with git"
    ):
        open_dataset(f"wds:{tmp_path}/a.tar")


def test_headers_within_headers_are_refused(tmp_path: Path) -> None:
    """Nested headers for long names: tarfile recurses for each."""
    long_name = bytearray(header("././@LongLink", 0))
    long_name[156] = ord("L")
    long_name[148:156] = b" " * 8
    long_name[148:156] = f"{sum(long_name):06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(bytes(long_name) * 5000)
    with pytest.raises(InputError, match="is not a whole, plain tar file"):
        open_dataset(f"wds:{tmp_path}/a.tar")
