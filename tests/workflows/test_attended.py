"""The images that `probe attend` shows, and the tokens of them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tokenprobe.errors import InputError, MissingError
from tokenprobe.extract.views import Pixels
from tokenprobe.probe.run.results import Run
from tokenprobe.probe.run.saved import SavedHead, load_saved
from tokenprobe.store import Store, open_store
from tokenprobe.store.reader import Split
from tokenprobe.workflows.attended import (
    class_token_similarity,
    from_images,
    from_store,
    spread_rows,
    stored_tokens,
)
from tokenprobe.workflows.probed_model import export_pipeline, transform_of
from tokenprobe.workflows.run_stores import open_split

from ..probe.kit import fit_made, write_made

MakeRun = Callable[..., Run]


def opened(run: Run, split: str | None = None) -> tuple[Split, SavedHead]:
    cell = run.results["cell"].iloc[0]
    _, about = load_saved(run.path, cell)
    return open_split(run.path, cell, about, split), about


def test_shown_rows_are_of_as_many_classes_as_possible() -> None:
    labels = np.array([2, 2, 0, 2, 1, 0])
    assert spread_rows(labels, 3).tolist() == [2, 4, 0], "the first of each class, sorted by class"
    assert spread_rows(labels, 5).tolist() == [2, 5, 4, 0, 1]
    assert spread_rows(labels, 2).tolist() == [2, 0], "of more classes than fit, those that come first"
    assert sorted(spread_rows(labels, 99).tolist()) == [0, 1, 2, 3, 4, 5]
    assert spread_rows(np.eye(4, dtype=int), 3).tolist() == [0, 1, 2]


def test_similarity_is_the_mean_cosine_over_layers() -> None:
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 4, 5))) for _ in range(2)]
    tensors = [(torch.from_numpy(prefix), torch.from_numpy(patch)) for prefix, patch in layers]
    found = class_token_similarity(tensors, ["reg0", "cls", "reg1"])
    assert found is not None
    for b, n in np.ndindex(2, 4):
        cosines = [
            np.dot(c[b, 1], x[b, n]) / np.sqrt(np.dot(c[b, 1], c[b, 1]) * np.dot(x[b, n], x[b, n])) for c, x in layers
        ]
        assert found[b, n] == pytest.approx(np.mean(cosines))
    assert class_token_similarity(tensors, ["reg0", "reg1", "reg2"]) is None
    assert class_token_similarity([(None, tensors[0][1])], ["cls"]) is None


@pytest.mark.parametrize(("head", "norm"), [("alf", "none"), ("alf", "final"), ("ep:queries=2", "final")])
def test_stored_tokens_are_those_that_the_model_gives_the_head(
    make_run: MakeRun, image_folder: Path, head: str, norm: str
) -> None:
    run = make_run([head], layers="stack:0+2", norm=norm)
    split, about = opened(run)
    rows = np.array([3, 0, 7])
    model = export_pipeline(run.path, run.results["cell"].iloc[0])
    pixels = [Pixels(model.transform)(Image.open(image_folder / "test" / split.ids[row])) for row in rows]
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (model.transform.mean, model.transform.std))
    with torch.no_grad():
        expected = model.forward_features((torch.stack(pixels) / 255 - mean) / std)
    assert torch.allclose(stored_tokens(split, about, rows), expected, atol=1e-5)


def test_image_files_give_the_tokens_and_pixels_of_the_store(make_run: MakeRun, image_folder: Path) -> None:
    run = make_run(["ep:queries=2,tokens=patch+prefix"], layers="1+2", norm="final")
    split, about = opened(run)
    stored = from_store(split, about, 24)
    files = from_images(export_pipeline(run.path, run.results["cell"].iloc[0]), str(image_folder / "test"), 24)
    places = [list(stored.ids).index(key) for key in files.ids]
    assert sorted(places) == list(range(24)) and set(files.labels) == {""}
    assert torch.allclose(files.tokens, stored.tokens[places], atol=1e-5)
    assert stored.pixels is not None and files.pixels is not None
    assert (files.pixels == stored.pixels[places]).all()
    assert stored.similarity is not None and files.similarity == pytest.approx(stored.similarity[places], abs=1e-5)


def test_an_image_that_cannot_be_read_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(["ep:queries=2"])
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "bad.png").write_bytes(b"no image")
    model = export_pipeline(run.path, run.results["cell"].iloc[0])
    with pytest.raises(InputError, match=r"cannot read image 'bad.png' of .*; leave it out"):
        from_images(model, str(tmp_path / "photos"), 3)


def test_pixels_and_labels_are_those_of_the_rows(make_run: MakeRun, image_folder: Path) -> None:
    split, about = opened(make_run(["ep:queries=2"]))
    seen = from_store(split, about, 7)
    assert len(seen.ids) == len(set(seen.ids)) == 7 and list(seen.labels) == [key.partition("/")[0] for key in seen.ids]
    assert seen.pixels is not None and seen.pixels.shape == (7, 16, 16, 3)
    pixels = Pixels(transform_of(about))
    for key, shown in zip(seen.ids, seen.pixels, strict=True):
        assert (pixels(Image.open(image_folder / "test" / key)).permute(1, 2, 0).numpy() == shown).all()


def test_without_the_images_there_is_a_warning_and_tokens_are_read(
    make_run: MakeRun, image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    shutil.copytree(image_folder, data)
    split, about = opened(make_run(["ep:queries=2"], data=f"folder:{data}"))
    (data / "test" / "ant" / "00.png").unlink()
    assert from_store(split, about, 24).pixels is None
    assert "has no image 'ant/00.png' in its split 'test'; put the data back, or give --images" in caplog.text
    shutil.rmtree(data)
    seen = from_store(split, about, 24)
    assert seen.pixels is None and seen.tokens.shape == (24, 16, 12)
    assert "maps are drawn without images: no folder at" in caplog.text.splitlines()[-1]


def test_a_store_without_a_journal_of_its_data_warns(
    write_store: Callable[..., Store], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    run = fit_made(store, tmp_path / "run", heads=["ep:queries=4"], layers="1", lr=[1.0], epochs=1)
    assert from_store(*opened(run), 4).pixels is None
    assert "says which images it was made from; put the data back, or give --images" in caplog.text


def test_the_split_is_the_reported_one_or_the_one_asked_for(make_run: MakeRun) -> None:
    run = make_run(["ep:queries=2"])
    assert opened(run)[0].name == "test" and opened(run, "train")[0].name == "train"
    with pytest.raises(InputError, match="'val'"):
        opened(run, "val")


def test_a_store_that_is_gone_or_another_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(["ep:queries=2"])
    cell, store = run.results["cell"].iloc[0], tmp_path / "made.zarr"
    _, about = load_saved(run.path, cell)
    object.__setattr__(about, "weights", "0" * 64)
    with pytest.raises(InputError, match=r"with other weights than .* was trained on; give --images"):
        open_split(run.path, cell, about, None)
    assert open_store(store).layers
    shutil.rmtree(store)
    with pytest.raises(MissingError, match="put the store back, or give --images to compute the tokens"):
        opened(run)
