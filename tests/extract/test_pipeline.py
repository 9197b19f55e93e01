"""Stage one as a whole: tokens against a direct forward, stores against one never interrupted, wrong inputs."""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from timm.layers import PatchEmbed
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torchvision.transforms import InterpolationMode

from tokenprobe.errors import InputError, MissingError, StoreError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.views import Augmentation, draw_crop
from tokenprobe.store import Store, open_store

MakeConfig = Callable[..., ExtractConfig]

TINY: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 2}
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NOT_INPUTS_ALONE = {"journal.jsonl", ".lock"}
BAD = "bee/07.png"


def digests(store: Path) -> dict[str, str]:
    """Hash every file whose bytes are a function of the inputs."""
    files = [file for file in store.rglob("*") if file.is_file() and file.name not in NOT_INPUTS_ALONE]
    return {str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def finished(store: Path) -> set[str]:
    """Names of the block files that the journal records; a torn last line counts for nothing."""
    journal = store / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    return {entry["file"] for entry in map(json.loads, lines) if re.search(r"/c\.\d+\.", entry.get("file", ""))}


def made_vit(path: Path, **changes: Any) -> VisionTransformer:
    """Make a model whose layers all matter, and save its weights."""
    torch.manual_seed(5)
    model = VisionTransformer(num_classes=0, **TINY | changes).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    save_file(model.state_dict(), path)
    return model


def pixels_by_hand(file: Path) -> Tensor:
    """timm's default: short side to 16 / 0.875, bicubic, centre crop, ImageNet's mean and standard deviation."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    cropped = TF.center_crop(TF.resize(image, [18], InterpolationMode.BICUBIC), [16, 16])
    return TF.normalize(TF.to_tensor(cropped), IMAGENET_MEAN, IMAGENET_STD)


def hooked(modules: Sequence[nn.Module], model: nn.Module, images: Tensor) -> list[np.ndarray]:
    outputs: list[np.ndarray] = []
    handles = [m.register_forward_hook(lambda *seen: outputs.append(seen[2].float().numpy())) for m in modules]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return outputs


def assert_rounded(stored: np.ndarray, exact: np.ndarray) -> None:
    """Half a unit in float16's last place is 2**-11; float32 sums of another batch size differ by some 1e-6."""
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored.astype(np.float32), exact, rtol=2**-11, atol=1e-5)


# --- tokens -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["cls"]),
        ({"reg_tokens": 2}, ["cls", "reg0", "reg1"]),
        ({"class_token": False, "global_pool": "avg"}, []),
    ],
    ids=["class", "class and registers", "none"],
)
@pytest.mark.parametrize("batch_size", [4, 5])
def test_stored_tokens_equal_a_direct_forward(
    tiny_config: MakeConfig,
    image_folder: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    names: list[str],
    batch_size: int,
) -> None:
    model = made_vit(tmp_path / "a.safetensors", **changes)
    config = tiny_config(
        model_arg=TINY | changes, checkpoint=tmp_path / "a.safetensors", no_pretrained=False, batch_size=batch_size
    )
    store = open_store(extract(config))
    assert store.manifest.complete
    assert store.manifest.recipe.prefix_names == names
    assert store["test"].info.block_rows < batch_size, "every batch of test is padded"
    for split in ("train", "test"):
        rows = store[split]
        images = torch.stack([pixels_by_hand(image_folder / split / key) for key in rows.ids])
        for layer, outputs in enumerate(hooked(model.blocks, model, images)):
            patch = outputs[:, len(names) :]
            assert_rounded(rows.tokens(layer), patch)
            np.testing.assert_allclose(rows.tokens(layer, kind="mean"), patch.mean(1), rtol=1e-5, atol=1e-5)
            assert rows.has(layer, "prefix") == bool(names)
            if names:
                assert_rounded(rows.tokens(layer, kind="prefix"), outputs[:, : len(names)])


def test_float32_tokens_are_not_rounded_at_all(tiny_config: MakeConfig, image_folder: Path, tmp_path: Path) -> None:
    model = made_vit(tmp_path / "a.safetensors")
    config = tiny_config(checkpoint=tmp_path / "a.safetensors", no_pretrained=False, dtype="float32", batch_size=3)
    rows = open_store(extract(config))["test"]
    images = torch.stack([pixels_by_hand(image_folder / "test" / key) for key in rows.ids])
    for start in range(0, len(rows), 3):  # the batches of the extraction: the same sums in the same order
        for layer, outputs in enumerate(hooked(model.blocks, model, images[start : start + 3])):
            stored = rows.tokens(layer, range(start, start + 3))
            # Normalisation by hand rounds in another order, by an ulp of a pixel.
            np.testing.assert_allclose(stored, outputs[:, 1:], rtol=1e-5, atol=1e-5)


def test_every_forward_pass_has_the_full_batch_size(tiny_config: MakeConfig) -> None:
    """Kernels may round otherwise at another size. Blocks of 3 images are cut into batches of 3, not padded to 4."""
    seen: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, PatchEmbed):
            seen.append(len(inputs[0]))

    handle = register_module_forward_pre_hook(note)
    try:
        extract(tiny_config(split=["test"]))
    finally:
        handle.remove()
    assert seen[-8:] == [3] * 8


def test_bfloat16_is_recorded_and_close_to_a_direct_forward_under_autocast(
    tiny_config: MakeConfig, image_folder: Path, tmp_path: Path
) -> None:
    model = made_vit(tmp_path / "a.safetensors")
    config = tiny_config(checkpoint=tmp_path / "a.safetensors", no_pretrained=False, amp="bfloat16", batch_size=3)
    store = open_store(extract(config))
    rows = store["test"]
    images = torch.stack([pixels_by_hand(image_folder / "test" / key) for key in rows.ids])
    exact = hooked(model.blocks, model, images)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = hooked(model.blocks, model, images)
    assert store.manifest.recipe.precision == "bfloat16"
    stored = rows.tokens(2).astype(np.float32)
    # Kernels of another batch size may round single values to the neighbouring bfloat16; on average they do not.
    error = np.abs(stored - rounded[2][:, 1:]).mean()
    assert error < 0.1 * np.abs(exact[2][:, 1:] - rounded[2][:, 1:]).mean()


def test_a_convolutional_model_stores_its_maps_row_by_row_with_a_shape_for_each_layer(
    tiny_config: MakeConfig, image_folder: Path
) -> None:
    arguments = {"pretrained_cfg_overlay": {"input_size": [3, 64, 64]}}
    config = tiny_config(model="timm:resnet10t", model_arg=arguments, split=["test"], limit=6, seed=2)
    store = open_store(extract(config))
    torch.manual_seed(2)
    model = timm.create_model("resnet10t", num_classes=0, **arguments).eval()
    transform = create_transform(**resolve_model_data_config(model))
    rows = store["test"]
    files = [image_folder / "test" / key for key in rows.ids]
    images = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    outputs = hooked([model.act1, model.layer1, model.layer2, model.layer3, model.layer4], model, images)
    assert store.layers == [0, 1, 2, 3, 4]
    assert store.manifest.recipe.prefix_names == []
    for layer, maps in enumerate(outputs):
        _, dim, height, width = maps.shape
        shape = rows.shape(layer)
        assert (shape.grid, shape.dim, shape.n_prefix) == ((height, width), dim, 0)
        by_row = np.stack([maps[:, :, r, c] for r in range(height) for c in range(width)], 1)
        assert_rounded(rows.tokens(layer), by_row)
        np.testing.assert_allclose(rows.tokens(layer, kind="mean"), maps.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_weights_with_mean_and_std_get_scaling_and_normalisation_alone(tiny_config: MakeConfig, tmp_path: Path) -> None:
    """Views of (16, 24) pixels: images of that size come through untouched, others are resized whole."""
    arguments = TINY | {"img_size": [16, 24]}
    model = made_vit(tmp_path / "a.safetensors", img_size=(16, 24))
    save_file(model.state_dict(), tmp_path / "a.safetensors", {"mean": "[0.1, 0.2, 0.3]", "std": "[0.4, 0.5, 0.6]"})
    exact = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3)).astype(np.uint8)
    other = np.random.default_rng(1).integers(0, 256, (3, 20, 30)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_exact=exact, y_exact=[0, 1, 2], x_other=other, y_other=[2, 1, 0])
    config = tiny_config(
        model_arg=arguments,
        checkpoint=tmp_path / "a.safetensors",
        no_pretrained=False,
        data=f"npz:{tmp_path / 'a.npz'}",
        row_order="dataset",
    )
    store = open_store(extract(config))
    resized = [np.asarray(Image.fromarray(grey).resize((24, 16), Image.Resampling.BICUBIC)) for grey in other]
    for split, pixels in (("exact", exact), ("other", np.stack([np.stack(resized)] * 3, -1))):
        values = (pixels.astype(np.float64) / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]
        outputs = hooked(model.blocks, model, torch.from_numpy(values).float().permute(0, 3, 1, 2))
        assert_rounded(store[split].tokens(2), outputs[2][:, 1:])
    assert store.manifest.shape(0).grid == (4, 6)


# --- rows -------------------------------------------------------------------------------------------------


def test_labels_and_ids_are_those_of_the_folder(tiny_config: MakeConfig, image_folder: Path) -> None:
    store = open_store(extract(tiny_config(layers="0")))
    for split in ("train", "test"):
        rows = store[split]
        files = sorted((image_folder / split).glob("*/*.png"))
        assert sorted(rows.ids) == [f"{file.parent.name}/{file.name}" for file in files]
        assert [rows.classes[label] for label in rows.labels] == [key.split("/")[0] for key in rows.ids]


def test_shuffled_and_dataset_order_hold_the_same_tokens_by_id(tiny_config: MakeConfig, tmp_path: Path) -> None:
    shuffled = open_store(extract(tiny_config(layers="1")))["train"]
    sorted_rows = open_store(extract(tiny_config(layers="1", row_order="dataset", out=tmp_path / "b.zarr")))["train"]
    assert sorted_rows.ids == sorted(sorted_rows.ids) != shuffled.ids
    places = [sorted_rows.ids.index(key) for key in shuffled.ids]
    np.testing.assert_array_equal(shuffled.labels, sorted_rows.labels[places])
    # Another batch around an image may change the last bits of a float32 sum.
    np.testing.assert_allclose(
        shuffled.tokens(1, kind="mean"), sorted_rows.tokens(1, places, kind="mean"), rtol=1e-5, atol=1e-6
    )


def test_a_limit_is_class_balanced_and_seeded(tiny_config: MakeConfig, tmp_path: Path) -> None:
    drawn = [
        open_store(extract(tiny_config(layers="0", limit=10, seed=seed, out=tmp_path / f"{run}.zarr")))
        for run, seed in enumerate((0, 0, 1))
    ]
    for store in drawn:
        for split in ("train", "test"):
            assert sorted(Counter(store[split].labels.tolist()).values()) == [3, 3, 4]
    assert drawn[0]["train"].ids == drawn[1]["train"].ids
    assert set(drawn[0]["train"].ids) != set(drawn[2]["train"].ids)
    assert drawn[0].manifest.splits["train"].limit == {"n": 10, "seed": 0}


# --- the same bytes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store extracted whole, by one process; not to be changed. What `tiny_config` asks for."""
    return extract(whole_config(image_folder, tmp_path_factory.mktemp("whole") / "whole.zarr"))


def whole_config(image_folder: Path, out: Path, views: int = 1) -> ExtractConfig:
    return ExtractConfig(
        model="timm:VisionTransformer",
        model_arg=TINY,
        no_pretrained=True,
        data=f"folder:{image_folder}",
        out=out,
        batch_size=4,
        workers=0,
        views=views,
    )


@pytest.fixture(scope="module")
def whole_of_three_views(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with three views, in one go."""
    return extract(whole_config(image_folder, tmp_path_factory.mktemp("views") / "whole.zarr", views=3))


@pytest.fixture
def reference(whole: Path) -> dict[str, str]:
    """Hashes of a store extracted whole."""
    return digests(whole)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"split": ["test"]}, {}),
        ({"split": ["test"]}, {"split": ["train"]}),
        ({"layers": "1"}, {}),
        ({"layers": "2,0"}, {"layers": "1"}),
        ({"tokens": ["prefix"]}, {"tokens": ["patch"]}),
        ({"layers": "0", "split": ["train"]}, {"workers": 2}),
        ({"split": ["train"], "workers": 2}, {"block_mib": 64}),
    ],
    ids=str,
)
def test_a_store_extended_equals_one_extracted_whole(
    tiny_config: MakeConfig, reference: dict[str, str], first: dict[str, Any], second: dict[str, Any]
) -> None:
    extract(tiny_config(**first))
    out = extract(tiny_config(**second))
    assert digests(out) == reference
    assert open_store(out).manifest.complete


def test_a_command_repeated_changes_nothing(
    tiny_config: MakeConfig, reference: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = extract(tiny_config())
    times = {file: file.stat().st_mtime_ns for file in out.glob("*/layer_*/*/c.*")}
    extract(tiny_config())
    assert digests(out) == reference
    assert {file: file.stat().st_mtime_ns for file in out.glob("*/layer_*/*/c.*")} == times
    assert "nothing to do, everything asked for is there" in capsys.readouterr().err


def test_a_lost_block_is_made_again(tiny_config: MakeConfig, reference: dict[str, str]) -> None:
    out = extract(tiny_config())
    next((out / "train/layer_01/patch").glob("c.*")).unlink()
    next((out / "test/layer_02/mean").glob("c.*")).write_bytes(b"cut")
    extract(tiny_config())
    assert digests(out) == reference


def test_overwrite_leaves_nothing_of_the_old_store(tiny_config: MakeConfig, reference: dict[str, str]) -> None:
    extract(tiny_config(dtype="float32", seed=3, limit=5))
    assert digests(extract(tiny_config(overwrite=True))) == reference


def test_no_absolute_path_is_in_the_store(tiny_config: MakeConfig, image_folder: Path, tmp_path: Path) -> None:
    made_vit(tmp_path / "a.safetensors")
    out = extract(tiny_config(layers="0", checkpoint=tmp_path / "a.safetensors", no_pretrained=False))
    for file in out.rglob("*"):
        if file.is_file() and file.name not in NOT_INPUTS_ALONE:
            content = file.read_bytes()
            assert str(tmp_path).encode() not in content and str(image_folder).encode() not in content, file


# --- views ------------------------------------------------------------------------------------------------


def test_tokens_of_a_view_equal_a_direct_forward_of_its_crop(
    tiny_config: MakeConfig, image_folder: Path, tmp_path: Path
) -> None:
    model = made_vit(tmp_path / "a.safetensors")
    config = tiny_config(
        checkpoint=tmp_path / "a.safetensors", no_pretrained=False, views=3, view_scale=[0.1, 0.5], seed=4
    )
    store = open_store(extract(config))
    assert store.manifest.complete
    assert (store["train"].info.views, store["test"].info.views) == (3, 1)
    crops = Augmentation((0.1, 0.5), (3 / 4, 4 / 3), seed=4)
    assert store["train"].info.augmentation == crops.to_json()
    assert store["test"].info.augmentation is None
    rows = store["train"]
    for view in (1, 2):
        images = []
        for key in rows.ids:
            with Image.open(image_folder / "train" / key) as opened:
                top, left, height, width, flipped = draw_crop(opened.height, opened.width, key, view, crops)
                cropped = TF.resized_crop(opened, top, left, height, width, [16, 16], InterpolationMode.BICUBIC)
            cropped = TF.hflip(cropped) if flipped else cropped
            images.append(TF.normalize(TF.to_tensor(cropped), IMAGENET_MEAN, IMAGENET_STD))
        for layer, outputs in enumerate(hooked(model.blocks, model, torch.stack(images))):
            assert_rounded(rows.tokens(layer, view=view), outputs[:, 1:])
            assert_rounded(rows.tokens(layer, view=view, kind="prefix"), outputs[:, :1])
            means = outputs[:, 1:].mean(1)
            np.testing.assert_allclose(rows.tokens(layer, view=view, kind="mean"), means, rtol=1e-5, atol=1e-5)


def test_every_view_of_every_image_is_another(whole_of_three_views: Path) -> None:
    train = open_store(whole_of_three_views)["train"]
    views = np.stack([train.tokens(2, view=view, kind="mean") for view in range(3)])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        same = [train.ids[row] for row in np.flatnonzero((views[one] == views[other]).all(1))]
        # Of an image of 18 × 20 pixels, views 1 and 2 are the same box by chance.
        assert same == (["ant/18.png"] if one == 1 else [])


def test_view_0_and_splits_for_testing_are_what_they_are_without_views(whole: Path, whole_of_three_views: Path) -> None:
    plain, several = (
        {name: digest for name, digest in digests(store).items() if "/c." in name}
        for store in (whole, whole_of_three_views)
    )
    assert plain == {name: digest for name, digest in several.items() if "/c.1." not in name and "/c.2." not in name}
    assert not any(name.startswith("test/") for name in several.keys() - plain.keys())


@pytest.mark.parametrize(
    "steps",
    [
        [{}, {"views": 3}],
        [{"views": 2}, {"views": 3, "workers": 2}],
        [{"views": 3, "layers": "1"}, {"views": 3, "workers": 1}],
        [{"split": ["train"], "views": 3}, {}],
        [{"views": 3, "tokens": ["prefix"]}, {"layers": "0"}, {"views": 3}],
    ],
    ids=str,
)
def test_a_store_extended_by_views_equals_one_extracted_whole(
    tiny_config: MakeConfig, whole_of_three_views: Path, steps: list[dict[str, Any]]
) -> None:
    times: dict[str, int] = {}
    for changes in steps:
        out = extract(tiny_config(**changes))
        for name in finished(out):
            assert times.setdefault(name, (out / name).stat().st_mtime_ns) == (out / name).stat().st_mtime_ns
    assert digests(out) == digests(whole_of_three_views)
    assert open_store(out).manifest.complete


def test_views_lost_in_a_crash_are_drawn_again_alike(tiny_config: MakeConfig, whole_of_three_views: Path) -> None:
    out = extract(tiny_config(views=3))
    for name in ("train/layer_00/patch/c.1.2.0.0", "train/layer_02/mean/c.2.0.0"):
        (out / name).unlink()
    extract(tiny_config(views=3, workers=2))
    assert digests(out) == digests(whole_of_three_views)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"view_scale": [0.08, 0.9]}, r"train\.augmentation\.scale: stored \[0\.08, 1\.0\], asked \[0\.08, 0\.9\]"),
        ({"view_ratio": [1.0, 1.0]}, r"train\.augmentation\.ratio: stored \[0\.75, 1\.33\d+\], asked \[1\.0, 1\.0\]"),
        ({"seed": 1}, r"train\.augmentation\.seed: stored 0, asked 1"),
    ],
    ids=str,
)
@pytest.mark.parametrize("views", [2, 5])
def test_views_drawn_differently_are_refused(
    tiny_config: MakeConfig, whole_of_three_views: Path, changes: dict[str, Any], field: str, views: int
) -> None:
    before = digests(whole_of_three_views)
    with pytest.raises(StoreError, match=field):
        extract(tiny_config(views=views, **changes, out=whole_of_three_views))
    assert digests(whole_of_three_views) == before


def test_views_of_splits_that_are_not_for_training_are_refused(tiny_config: MakeConfig, tmp_path: Path) -> None:
    message = (
        r"^2 views asked for, and none of the splits \(test\) is for training: its name would begin with 'train'; "
        "other splits have view 0 alone, so extract them with --views 1$"
    )
    with pytest.raises(InputError, match=message):
        extract(tiny_config(views=2, split=["test"]))
    assert not (tmp_path / "tiny.zarr").exists()


def test_any_split_whose_name_begins_with_train_has_views(tiny_config: MakeConfig, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    splits = ("train_a", "train_b", "val")
    np.savez(tmp_path / "a.npz", **{f"x_{s}": pixels for s in splits}, **{f"y_{s}": [0, 1, 0, 1] for s in splits})
    store = open_store(extract(tiny_config(data=f"npz:{tmp_path / 'a.npz'}", views=2, layers="0")))
    assert {split: store[split].info.views for split in store.splits} == {"train_a": 2, "train_b": 2, "val": 1}


# --- kill -9 ----------------------------------------------------------------------------------------------

KillAt = Callable[[ExtractConfig, int], list[int]]

FORKING = """
import multiprocessing
multiprocessing.set_start_method("fork", force=True)  # a child of a forkserver would use it for its workers too
extract(config)
"""


@pytest.fixture(scope="module")
def never_interrupted(tmp_path_factory: pytest.TempPathFactory) -> ExtractConfig:
    """Config of a finished extraction: 16 blocks of 4 layers of 3 arrays, 192 files."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, n_images in (("train", 200), ("test", 48)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (n_images, 16, 16, 3)).astype(np.uint8)
        arrays[f"y_{split}"] = np.arange(n_images) % 5
    np.savez(folder / "many.npz", **arrays)
    config = ExtractConfig(
        model="timm:VisionTransformer",
        model_arg=TINY | {"depth": 4, "embed_dim": 48},
        no_pretrained=True,
        data=f"npz:{folder / 'many.npz'}",
        out=folder / "whole.zarr",
        batch_size=4,
        workers=0,
    )
    assert len(finished(extract(config))) == 192
    return config


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def kill_at() -> Iterator[KillAt]:
    """Run an extraction in a process, SIGKILL it when so many files are finished, and give its orphans, stopped.

    Every five seconds a worker looks for its parent, and would be gone if that came between.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tokenprobe.extract.pipeline", "zarr", "pytest"])  # load once for all runs
    orphans: list[int] = []

    def run(config: ExtractConfig, n_files: int) -> list[int]:
        process = context.Process(target=exec, args=(FORKING, {"extract": extract, "config": config}))
        process.start()
        journal, deadline = Path(config.out) / "journal.jsonl", time.monotonic() + 60
        while not journal.exists() or journal.read_bytes().count(b"/c.0.") < n_files:
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.001)
        of_process = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        orphans.extend(map(int, of_process.split()))
        process.kill()
        process.join(10)
        for orphan in orphans:  # not before: the kernel hangs up on what is stopped when its parent ends
            os.kill(orphan, signal.SIGSTOP)
        assert process.exitcode == -signal.SIGKILL
        return orphans

    yield run
    for orphan in orphans:
        if alive(orphan):
            os.kill(orphan, signal.SIGKILL)


@pytest.mark.parametrize("n_files", [1, 60, 120])
def test_killed_and_run_again_the_store_is_the_one_never_interrupted(
    never_interrupted: ExtractConfig, tmp_path: Path, kill_at: KillAt, n_files: int
) -> None:
    out = tmp_path / "killed.zarr"
    config = replace(never_interrupted, out=out, workers=1)
    orphans = kill_at(config, n_files)
    before = finished(out)
    assert n_files <= len(before) < 192, "killed in the middle"
    assert not open_store(out).manifest.complete
    times = {name: (out / name).stat().st_mtime_ns for name in before}
    extract(config)  # at once: an orphan holds no lock
    assert len(orphans) == 1 and alive(orphans[0]), "the forked worker of the killed process is still there"
    assert digests(out) == digests(Path(never_interrupted.out))
    arrays_of_block = Counter(block_of(name) for name in before)
    kept = {name for name in before if arrays_of_block[block_of(name)] == 3}
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == {name: times[name] for name in kept}


def block_of(name: str) -> tuple[str, str, str]:
    """Return (split, layer, block) of a file such as "train/layer_05/patch/c.0.3.0.0"."""
    split, layer, _, chunk = name.split("/")
    return split, layer, chunk.split(".")[2]


# --- images that cannot be read ---------------------------------------------------------------------------


@pytest.fixture
def broken_folder(image_folder: Path, tmp_path: Path) -> Path:
    """The shared images, one of them truncated."""
    folder = Path(shutil.copytree(image_folder, tmp_path / "broken"))
    file = folder / "train" / BAD
    file.write_bytes(file.read_bytes()[:200])
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_and_finished_blocks_stay(
    tiny_config: MakeConfig, broken_folder: Path, tmp_path: Path, workers: int
) -> None:
    config = tiny_config(data=f"folder:{broken_folder}", row_order="dataset", workers=workers)
    message = (
        rf"^cannot read image '{BAD}' of split 'train' in 'folder:.*/broken' \(\w+: .+\); "
        "give --skip-bad-images to leave it out and go on where this stopped$"
    )
    with pytest.raises(InputError, match=message):
        extract(config)
    # Splits come by name: test is whole. Of train the blocks before the image's own, that of row 27.
    store = open_store(config.out)
    n_whole = {"test": store["test"].info.n_blocks, "train": 27 // store["train"].info.block_rows}
    done = {(split, int(block)) for split, _, block in map(block_of, finished(tmp_path / "tiny.zarr"))}
    assert n_whole["train"] > 0
    assert done == {(split, block) for split, n_blocks in n_whole.items() for block in range(n_blocks)}


def test_an_image_mended_in_place_lets_the_same_command_continue(
    tiny_config: MakeConfig, image_folder: Path, broken_folder: Path
) -> None:
    file = broken_folder / "train" / BAD
    good = (image_folder / "train" / BAD).read_bytes()
    file.write_bytes(bytes(len(good)))
    config = tiny_config(data=f"folder:{broken_folder}", row_order="dataset", layers="0")
    with pytest.raises(InputError, match=BAD):
        extract(config)
    kept = finished(Path(config.out))
    file.write_bytes(good)
    out = extract(config)
    assert kept < finished(out)
    assert open_store(out).manifest.complete


def test_skipped_images_are_left_out_and_recorded(
    tiny_config: MakeConfig, broken_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(data=f"folder:{broken_folder}", skip_bad_images=True)
    store = open_store(extract(config))
    assert f"left out train/{BAD}: " in capsys.readouterr().err
    assert store.manifest.splits["train"].skipped == [BAD]
    assert store.manifest.splits["test"].skipped == []
    (broken_folder / "train" / BAD).unlink()
    without = open_store(extract(tiny_config(data=f"folder:{broken_folder}", out=tmp_path / "without.zarr")))
    assert len(store["train"]) == len(without["train"]) == 59
    chunks = [{k: v for k, v in digests(s.path).items() if "/c." in k} for s in (store, without)]
    assert chunks[0] == chunks[1]


def test_with_the_flag_again_a_store_with_skipped_images_is_extended(
    tiny_config: MakeConfig, broken_folder: Path, tmp_path: Path
) -> None:
    config = {"data": f"folder:{broken_folder}", "skip_bad_images": True}
    whole = digests(extract(tiny_config(**config, out=tmp_path / "whole.zarr")))
    extract(tiny_config(**config, layers="1"))
    assert digests(extract(tiny_config(**config))) == whole


def test_without_the_flag_a_store_with_skipped_images_is_refused(tiny_config: MakeConfig, broken_folder: Path) -> None:
    extract(tiny_config(data=f"folder:{broken_folder}", skip_bad_images=True))
    with pytest.raises(StoreError, match=rf"train\.skipped: stored \['{BAD}'\], asked \[\].*--overwrite"):
        extract(tiny_config(data=f"folder:{broken_folder}"))


@pytest.mark.parametrize("row_order", ["dataset", "shuffled"])
def test_the_flag_given_after_the_failure_goes_on_and_keeps_the_blocks_before_it(
    tiny_config: MakeConfig, broken_folder: Path, tmp_path: Path, row_order: str
) -> None:
    config = {"data": f"folder:{broken_folder}", "row_order": row_order, "batch_size": 2}
    whole = digests(extract(tiny_config(**config, skip_bad_images=True, out=tmp_path / "whole.zarr")))
    with pytest.raises(InputError, match="give --skip-bad-images"):
        extract(tiny_config(**config))
    out = Path(tiny_config().out)
    kept = {file: (out / file).stat().st_mtime_ns for file in finished(out)}
    assert any(file.startswith("train/") for file in kept)
    assert digests(extract(tiny_config(**config, skip_bad_images=True))) == whole
    assert {file: (out / file).stat().st_mtime_ns for file in kept} == kept


def test_under_a_limit_another_image_takes_the_place_of_a_bad_one(
    tiny_config: MakeConfig, broken_folder: Path, tmp_path: Path
) -> None:
    """The number of rows stays, their images do not: labels and ids must follow."""
    config = {"data": f"folder:{broken_folder}", "limit": 50, "split": ["train"], "batch_size": 2}
    whole = extract(tiny_config(**config, skip_bad_images=True, out=tmp_path / "whole.zarr"))
    assert len(open_store(whole)["train"]) == 50
    for seed in range(20):  # a seed whose 50 images include the bad one
        rows = tiny_config(**config, seed=seed, out=tmp_path / f"{seed}.zarr")
        try:
            extract(rows)
        except InputError:
            break
    repaired = extract(replace(rows, skip_bad_images=True))
    fresh = extract(replace(rows, skip_bad_images=True, out=tmp_path / "fresh.zarr"))
    assert digests(repaired) == digests(fresh)
    assert BAD not in open_store(repaired)["train"].ids
    assert len(open_store(repaired)["train"]) == 50


def test_prefix_tokens_of_a_backbone_without_any_are_refused(tiny_config: MakeConfig) -> None:
    with pytest.raises(InputError, match=r"^tokens prefix asked for, and 'timm:resnet10t' has none; ask for patch$"):
        extract(tiny_config(model="timm:resnet10t", model_arg={}, tokens=["prefix"]))


def test_the_flag_with_overwrite_looks_again(tiny_config: MakeConfig, broken_folder: Path) -> None:
    with pytest.raises(InputError, match="give --skip-bad-images"):
        extract(tiny_config(data=f"folder:{broken_folder}"))
    out = extract(tiny_config(data=f"folder:{broken_folder}", skip_bad_images=True, overwrite=True))
    assert open_store(out).manifest.splits["train"].skipped == [BAD]


def test_a_split_of_bad_images_alone_has_none(tiny_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "images" / "ant").mkdir(parents=True)
    (tmp_path / "images" / "ant" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"^split 'train' of '.*images' has no images$"):
        extract(tiny_config(data=str(tmp_path / "images"), skip_bad_images=True))


# --- wrong inputs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float61"}, "^unknown dtype 'float61'; known: float16, bfloat16, float32, int8$"),
        ({"row_order": "random"}, "^unknown row_order 'random'; known: shuffled, dataset$"),
        ({"amp": "on"}, "^unknown amp 'on'; known: .*auto"),
        ({"tokens": ["patches"]}, "^unknown tokens 'patches'; known: patch, prefix$"),
        ({"batch_size": 0}, "^batch_size 0: expected at least 1$"),
        ({"block_mib": -1}, "^block_mib -1: expected at least 1$"),
        ({"limit": 0}, "^limit 0: expected at least 1$"),
        ({"workers": -1}, "workers -1"),
        ({"seed": -1}, "seed -1"),
        ({"views": 0}, "^views 0: expected at least 1$"),
        ({"image_size": [0]}, r"^image_size \[0\]: expected a side in pixels, or height and width$"),
        ({"image_size": [16, 16, 3]}, r"^image_size \[16, 16, 3\]: expected a side"),
        (
            {"allow_missing": ["norm"]},
            r"^allow_missing \['norm'\] without a checkpoint; give --checkpoint FILE with it$",
        ),
        ({"view_scale": [0.5]}, r"^view_scale \[0\.5\]: expected two numbers, 0 < smallest <= largest <= 1$"),
        ({"view_scale": [0.0, 1.0]}, "^view_scale .*: expected two numbers, 0 < "),
        ({"view_scale": [0.5, 1.5]}, "^view_scale .*: expected two numbers, 0 < "),
        ({"view_ratio": [2.0, 1.0]}, "^view_ratio .* <= 1000$"),
        ({"device": "gpu"}, "^unknown device 'gpu'; expected auto, cpu, cuda or cuda:N$"),
        ({"device": "meta"}, "device 'meta'"),
        ({"layers": "7"}, r"^layers '7': the backbone has layers 0 to 2; got \[7\]$"),
        ({"split": ["tset"]}, "^unknown split of 'folder:.*' 'tset'; known: test, train$"),
        ({"model": "timm:vit_tiny_patch16_2244"}, "^unknown timm model 'vit_tiny_patch16_2244'; known: vit_tiny_"),
        ({"model": "hubb:x"}, "^unknown backbone source 'hubb'; known: hub, timm, open_clip$"),
        ({"model_arg": TINY | {"nonsense": 1}}, "does not take .*'nonsense'"),
        ({"no_pretrained": False}, "has no published weights; give --checkpoint or --no-pretrained"),
        ({"data": "fodler:x"}, "^unknown data source 'fodler'; known: folder"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_settings_are_named_and_nothing_is_written(
    tiny_config: MakeConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        extract(tiny_config(**changes))
    assert not (tmp_path / "tiny.zarr").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("amp", "tolerance"), [("off", 1e-3), ("bfloat16", 0.1)])
def test_a_gpu_gives_the_tokens_that_the_cpu_gives(
    tiny_config: MakeConfig, tmp_path: Path, amp: str, tolerance: float
) -> None:
    """To the precision of its products: TF32 is off by default, bfloat16 has eight bits, through three blocks."""
    stores = [
        open_store(extract(tiny_config(out=tmp_path / f"{device}.zarr", device=device, amp=amp, dtype="float32")))
        for device, amp in (("cpu", "off"), ("cuda", amp))
    ]
    for layer in (0, 1, 2):
        on_cpu, on_gpu = (store["train"].tokens(layer) for store in stores)
        assert stores[0]["train"].ids == stores[1]["train"].ids
        np.testing.assert_allclose(on_gpu, on_cpu, rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_asked_for_but_absent_is_no_silent_fallback(tiny_config: MakeConfig, device: str) -> None:
    message = rf"^device '{device}' asked for, but torch finds 0 CUDA device\(s\)$"
    with pytest.raises(InputError, match=message):
        extract(tiny_config(device=device))


def test_missing_data_is_named(tiny_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"^no folder at '.*/none'"):
        extract(tiny_config(data=str(tmp_path / "none")))
    with pytest.raises(MissingError, match=r"^no checkpoint at '.*/none\.pth'"):
        extract(tiny_config(checkpoint=tmp_path / "none.pth"))


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_something_that_is_no_store_is_left_alone(tiny_config: MakeConfig, tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        (tmp_path / "tiny.zarr").mkdir()
        (tmp_path / "tiny.zarr" / "thesis.tex").write_text("mine")
    else:
        (tmp_path / "tiny.zarr").write_text("mine")
    with pytest.raises(StoreError, match=r"tiny\.zarr' exists and is not a token store; give another path$"):
        extract(tiny_config(overwrite=True))
    path = tmp_path / "tiny.zarr"
    assert (path / "thesis.tex" if kind == "folder" else path).read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model_arg": TINY | {"embed_dim": 24}}, r"model_args\.embed_dim: stored 12, asked 24"),
        ({"model_arg": TINY | {"img_size": 32}}, r"transform\.input_size: stored .16, 16., asked .32, 32."),
        ({"seed": 1}, r"row_order\.seed: stored 0, asked 1"),
        ({"seed": 1}, r"weights: stored '[0-9a-f]{64}', asked '[0-9a-f]{64}'"),
        ({"dtype": "float32"}, "dtype: stored 'float16', asked 'float32'"),
        ({"amp": "bfloat16"}, "precision: stored 'float32', asked 'bfloat16'"),
        ({"row_order": "dataset"}, r"row_order\.kind: stored 'shuffled', asked 'dataset'"),
        ({"limit": 9}, r"test\.limit: stored None, asked \{'n': 9, 'seed': 0\}"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_store_made_differently_is_refused_naming_the_field(
    tiny_config: MakeConfig, whole: Path, changes: dict[str, Any], field: str
) -> None:
    before = digests(whole)
    with pytest.raises(StoreError, match=rf"^the store was made differently \(.*{field}.*\); write to another store"):
        extract(tiny_config(**changes, out=whole))
    assert digests(whole) == before


def test_changed_data_are_refused(tiny_config: MakeConfig, image_folder: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(image_folder, tmp_path / "copy"))
    extract(tiny_config(data=str(data), split=["test"], layers="0"))
    (data / "test" / "ant" / "00.png").unlink()
    with pytest.raises(StoreError, match=r"test\.n_images: stored 24, asked 23; test\.source: stored "):
        extract(tiny_config(data=str(data), split=["test"], layers="0"))


def test_a_checkpoint_of_another_model_is_refused(tiny_config: MakeConfig, tmp_path: Path) -> None:
    made_vit(tmp_path / "a.safetensors", depth=2)
    with pytest.raises(InputError, match=r"a\.safetensors' does not fit: it lacks 12 of the backbone's 42 weights"):
        extract(tiny_config(checkpoint=tmp_path / "a.safetensors", no_pretrained=False))


def test_keys_of_a_checkpoint_without_a_place_are_listed_and_ignored(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = made_vit(tmp_path / "a.safetensors")
    plain = extract(tiny_config(checkpoint=tmp_path / "a.safetensors", out=tmp_path / "plain.zarr", layers="0"))
    assert "ignored" not in capsys.readouterr().err
    extra = {f"decoder.{index}": torch.zeros(1) for index in range(7)}
    torch.save({"model": model.state_dict() | extra}, tmp_path / "b.pth")
    out = extract(tiny_config(checkpoint=tmp_path / "b.pth", layers="0"))
    shown = ", ".join(list(extra)[:5])
    said = capsys.readouterr().err.splitlines()
    assert "checkpoint: 42 of the backbone's 42 weights loaded from 'model'" in said
    assert f"checkpoint: 7 no place in the backbone, ignored: {shown}, …" in said
    assert digests(out) == digests(plain)


def test_a_token_too_large_for_float16_names_layer_and_image(tiny_config: MakeConfig, tmp_path: Path) -> None:
    model = made_vit(tmp_path / "a.safetensors")
    weights = model.state_dict()
    weights["blocks.1.mlp.fc2.bias"] += 1e5
    save_file(weights, tmp_path / "a.safetensors")
    config = {"checkpoint": tmp_path / "a.safetensors", "no_pretrained": False, "row_order": "dataset"}
    message = r"^a token of 1e\+05 does not fit float16 \(layer 1, image 'ant/00\.png'\); store with --dtype bfloat16$"
    with pytest.raises(InputError, match=message):
        extract(tiny_config(**config, split=["train"]))
    store = open_store(extract(tiny_config(**config, dtype="float32", out=tmp_path / "wide.zarr", layers="1")))
    assert np.isfinite(store["train"].tokens(1)).all()
    assert store["train"].tokens(1).min() > 65504


# --- progress ---------------------------------------------------------------------------------------------


def journal_of(store: Store) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (store.path / "journal.jsonl").read_text().splitlines()]


def test_progress_counts_every_image_once(tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    extract(tiny_config(layers="0"))
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("extract 84/84 images  ") and line.endswith("  0 s left")]
    assert lines[-1].endswith(" images/s") and "tiny.zarr: 84 images in " in lines[-1]


def test_decoding_that_bounds_the_run_is_named_with_its_speed(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of three million pixels before a backbone, and files, that take milliseconds."""
    folder = tmp_path / "large" / "one"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (1700, 1700, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "0.png", compress_level=1)
    for index in range(1, 12):
        shutil.copy(folder / "0.png", folder / f"{index}.png")
    store = open_store(extract(tiny_config(data=str(tmp_path / "large"), batch_size=2, layers="0")))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("extract 12/12 images")]
    speed = re.search(r"MB/s  waiting for decoding: (\d+) images/s per core  0 s left$", line)
    assert speed is not None, line
    finish = next(entry for entry in journal_of(store) if entry.get("event") == "finish")
    assert abs(finish["decoded_per_core_second"] - int(speed[1])) <= 0.6, "rounded to tenths, and to ones"
    assert 0 < finish["seconds_waited_for_images"] < finish["seconds"]


def test_a_terminal_gets_a_bar(
    tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    extract(tiny_config(layers="0"))
    shown = capsys.readouterr().err
    assert "84/84" in shown and "━" in shown
    assert "extract 84/84 images" not in shown


def test_a_store_begun_otherwise_says_it_is_not_finished(
    tiny_config: MakeConfig, broken_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=BAD):
        extract(tiny_config(data=str(broken_folder), row_order="dataset"))
    extract(tiny_config(data=str(broken_folder), row_order="dataset", split=["test"]))
    assert "parts that another command began are not finished; probe info names them" in capsys.readouterr().err


def test_the_journal_keeps_what_the_store_may_not(tiny_config: MakeConfig, image_folder: Path) -> None:
    store = open_store(extract(tiny_config(layers="0")))
    events = {entry["event"]: entry for entry in journal_of(store) if "event" in entry}
    assert events["start"]["process"] == os.getpid()
    assert events["finish"]["n_images"] == 84


def test_the_journal_keeps_the_settings_with_absolute_paths(
    tiny_config: MakeConfig, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_vit(tmp_path / "a.safetensors")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").symlink_to(image_folder)
    config = tiny_config(data="images", out="b.zarr", checkpoint="a.safetensors", no_pretrained=False, layers="0")
    (start, _) = [entry for entry in journal_of(open_store(extract(config))) if "event" in entry]
    expected = replace(
        config,
        data=f"folder:{tmp_path}/images",
        out=f"{tmp_path}/b.zarr",
        checkpoint=f"{tmp_path}/a.safetensors",
    )
    assert ExtractConfig(**start["config"]) == expected
