"""Decoding, in this process and in workers."""

import os
import re
import signal
import time
import warnings
from collections.abc import Iterable
from itertools import pairwise
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tokenprobe.errors import InputError
from tokenprobe.extract.datasets.image_folder import ImageFolder
from tokenprobe.extract.decoded import BadImage, DecodedBatch
from tokenprobe.extract.loading import AHEAD, CHUNK, RowImages, Wanted, explained_loss, find_bad_images, make_loader
from tokenprobe.extract.rows import SplitRows, choose_rows
from tokenprobe.extract.views import Augmentation, Pixels, RandomCrops, Transform

PLAIN = Transform((8, 8), "bicubic", None, "none", (0.0,) * 3, (1.0,) * 3)
CROPS = Augmentation((0.08, 1.0), (3 / 4, 4 / 3), seed=0)


def write_images(root: Path, n_images: int, *, bad: tuple[int, ...] = ()) -> None:
    """Write images of one colour each, with their index as red value; truncate some of them."""
    folder = root / "one"
    folder.mkdir(parents=True)
    for index in range(n_images):
        file = folder / f"{index:02d}.png"
        Image.new("RGB", (8, 8), (index, 0, 0)).save(file)
        if index in bad:
            file.write_bytes(file.read_bytes()[:40])  # within the header of the pixel data


def open_rows(root: Path) -> tuple[RowImages, SplitRows]:
    source = ImageFolder(str(root))
    rows = choose_rows(source.images("train"), set(), None, shuffled=True, seed=0)
    return RowImages(source, {"train": rows}, PLAIN, CROPS), rows


def kept(batches: Iterable[DecodedBatch]) -> list[DecodedBatch]:
    """Copy the pixels of each batch, since their memory is reused."""
    return [batch._replace(pixels=batch.pixels.clone()) for batch in batches]


def reds(batch: DecodedBatch) -> list[int]:
    return batch.pixels[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_the_order_asked_each_row_its_own_image(tmp_path: Path, workers: int) -> None:
    write_images(tmp_path, 10)
    images, rows = open_rows(tmp_path)
    batches = [Wanted("train", [7, 2]), Wanted("train", [0]), Wanted("train", [9, 8, 1])]
    loaded = kept(make_loader(images, batches, workers=workers, pinned=False))
    for batch, wanted in zip(loaded, batches, strict=True):
        assert (batch.pixels.dtype, batch.pixels.shape) == (torch.uint8, (len(wanted.rows), 3, 8, 8))
        assert reds(batch) == [int(rows.ids[row][-6:-4]) for row in wanted.rows] and not batch.bad


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("size", [1, CHUNK, 3 * CHUNK - 1])
def test_no_pixels_are_overwritten_before_the_next_batch_is_asked_for(tmp_path: Path, workers: int, size: int) -> None:
    """Batches of several sizes, many more than slots; a slow reader lets the workers run ahead."""
    write_images(tmp_path, 200)
    images, rows = open_rows(tmp_path)
    cuts = [*range(0, 60, size), *range(60, 63), *range(63, 200, size), 200]
    batches = [Wanted("train", range(start, stop)) for start, stop in pairwise(cuts)]
    seen = []
    for number, batch in enumerate(make_loader(images, batches, workers=workers, pinned=False)):
        time.sleep(0.05 if number % 10 == 0 else 0)
        seen += reds(batch)
    assert seen == [int(Path(key).stem) for key in rows.ids]


def test_workers_run_ahead_and_no_further(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    for index in range(1, 400):
        os.link(tmp_path / "one" / "00.png", tmp_path / "one" / f"{index}.png")
    source = ImageFolder(str(tmp_path))
    rows = choose_rows(source.images("train"), set(), None, shuffled=False, seed=0)
    loader = make_loader(
        RowImages(source, {"train": rows}, PLAIN),
        [Wanted("train", range(row, row + CHUNK)) for row in range(0, 400, CHUNK)],
        workers=2,
        pinned=False,
    )
    next(loader)
    for index in range(400):
        (tmp_path / "one" / f"{rows.ids[index][4:]}").unlink() if index >= CHUNK * (1 + 2 * AHEAD) else None
    whole = [not batch.bad for batch in loader]
    assert whole == [True] * (2 * AHEAD) + [False] * (400 // CHUNK - 1 - 2 * AHEAD)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_names_its_bad_image(tmp_path: Path, workers: int) -> None:
    write_images(tmp_path, 6, bad=(3,))
    images, rows = open_rows(tmp_path)
    row = rows.ids.index("one/03.png")
    good = next(other for other in range(6) if other != row)
    batches = [Wanted("train", [good]), Wanted("train", [good, row])]
    first, second = make_loader(images, batches, workers=workers, pinned=False)
    assert not first.bad
    (bad,) = second.bad
    assert (bad.split, bad.id) == ("train", "one/03.png")
    assert bad.reason.startswith("UnidentifiedImageError: cannot identify an image in ")


def test_bad_images_of_a_batch_are_told_in_its_order(tmp_path: Path) -> None:
    write_images(tmp_path, 6, bad=(1, 3, 4))
    images, rows = open_rows(tmp_path)
    order = [rows.ids.index(f"one/{index:02d}.png") for index in (0, 3, 1, 4)]
    (batch,) = make_loader(images, [Wanted("train", order)], workers=0, pinned=False)
    assert [bad.id for bad in batch.bad] == ["one/03.png", "one/01.png", "one/04.png"]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_search_finds_every_bad_image(tmp_path: Path, workers: int) -> None:
    write_images(tmp_path, 80, bad=(0, 13, 79))
    (tmp_path / "one" / "40.png").write_bytes(b"")
    (tmp_path / "one" / "41.png").write_text("no image at all")
    images, rows = open_rows(tmp_path)
    bad = find_bad_images(images, Wanted("train", range(len(rows))), workers=workers)
    assert sorted(image.id for image in bad) == [f"one/{index:02d}.png" for index in (0, 13, 40, 41, 79)]


def test_a_file_that_vanishes_is_a_bad_image(tmp_path: Path) -> None:
    write_images(tmp_path, 2)
    images, rows = open_rows(tmp_path)
    (tmp_path / "one" / "00.png").unlink()
    bad = images.pixels("train", rows.ids.index("one/00.png"), 0)
    assert isinstance(bad, BadImage)
    assert bad.reason.startswith("FileNotFoundError: ")


def test_workers_leave_signals_to_the_main_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Signals to the process group do not reach the workers. torch, not an inherited handler, reports a dead worker."""

    def handler(*_: object) -> None:
        raise AssertionError("a worker ran the main process's handler")

    write_images(tmp_path, 4)
    images, _ = open_rows(tmp_path)
    before = signal.signal(signal.SIGTERM, handler)
    try:
        loaded = make_loader(images, [Wanted("train", [row]) for row in range(4)], workers=1, pinned=False)
        (worker,) = active_children()
        next(loaded)
        assert worker.pid is not None and os.getpgid(worker.pid) != os.getpgid(0)
        os.kill(worker.pid, signal.SIGINT)
        next(loaded)
        assert worker.is_alive()
        os.kill(worker.pid, signal.SIGTERM)
        with pytest.raises(RuntimeError, match="killed by signal: Terminated"):  # torch's watch over its workers
            time.sleep(20)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capfd.readouterr().err == ""


def test_a_decoding_process_that_the_system_kills_is_named_with_advice(tmp_path: Path) -> None:
    write_images(tmp_path, 4)
    images, _ = open_rows(tmp_path)
    loaded = make_loader(images, [Wanted("train", [row]) for row in range(4)], workers=1, pinned=False)
    (worker,) = active_children()
    next(loaded)
    assert worker.pid is not None
    with pytest.raises(InputError, match=r"ended early \(DataLoader worker .* killed by signal: Killed.*--workers"):
        kill_and_wait(worker.pid)
    with pytest.raises(RuntimeError, match=r"^another$"), explained_loss():
        raise RuntimeError("another")


@explained_loss()
def kill_and_wait(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    time.sleep(20)  # torch interrupts this


def test_loading_is_the_same_with_and_without_workers(tmp_path: Path) -> None:
    write_images(tmp_path, 12)
    images, _ = open_rows(tmp_path)
    batches = [Wanted("train", range(start, start + 4)) for start in (0, 4, 8)]
    alone, helped = (kept(make_loader(images, batches, workers=workers, pinned=False)) for workers in (0, 2))
    for one, other in zip(alone, helped, strict=True):
        np.testing.assert_array_equal(one.pixels.numpy(), other.pixels.numpy())


@pytest.mark.parametrize("workers", [0, 1])
def test_the_seconds_of_a_batch_are_those_a_core_worked_on_it(tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(rng.integers(0, 256, (800, 800, 3)).astype(np.uint8)).save(folder / f"{index}.png")
    images, _ = open_rows(tmp_path)
    start = time.process_time()
    for row in range(4):
        assert isinstance(images.pixels("train", row, 0), torch.Tensor)
    alone = time.process_time() - start
    (batch,) = make_loader(images, [Wanted("train", range(4))], workers=workers, pinned=False)
    assert alone / 5 < batch.seconds < alone * 5  # a busy machine's clock rate and caches change


def test_each_view_is_the_draw_of_its_image(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    ramp = np.arange(40 * 30 * 3).reshape(40, 30, 3).astype(np.uint8)
    for index in range(3):
        Image.fromarray(ramp + np.uint8(index)).save(folder / f"{index}.png")
    images, rows = open_rows(tmp_path)
    crops = RandomCrops(PLAIN, CROPS)
    for row, key in enumerate(rows.ids):
        whole = Image.fromarray(ramp + np.uint8(int(key[-5])))
        for view in (1, 2):
            torch.testing.assert_close(images.pixels("train", row, view), crops(whole, key, view), rtol=0, atol=0)
        torch.testing.assert_close(images.pixels("train", row, 0), Pixels(PLAIN)(whole), rtol=0, atol=0)


@pytest.mark.usefixtures("messages")
@pytest.mark.parametrize("workers", [0, 2])
def test_warnings_of_decoders_are_told_once_each_kind_and_name_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], workers: int
) -> None:
    """PIL warns about each large image anew in every process."""
    write_images(tmp_path, 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8 * 8 - 1)
    images, rows = open_rows(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        batches = [Wanted("train", range(10)), Wanted("train", range(10, 20))]
        loaded = kept(make_loader(images, batches, workers=workers, pinned=False))
    assert not any(batch.bad for batch in loaded)
    (line,) = capfd.readouterr().err.splitlines()
    told = (
        rf"image '{rows.ids[0]}': DecompressionBombWarning: Image size \(64 pixels\) .* "
        r"\(similar warnings are not shown\)"
    )
    assert re.fullmatch(told, line), line
