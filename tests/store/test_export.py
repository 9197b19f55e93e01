"""The part of a store that an export writes. The output is complete or absent."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tokenprobe.errors import InputError, StoreError
from tokenprobe.store import Store, open_store
from tokenprobe.store.export import FORMS, choose_form, export_store, exported_bytes, select
from tokenprobe.store.temporaries import file_of, new_writer, temporary_of
from tokenprobe.testing.forks import count_steps, fork_and_kill
from tokenprobe.testing.store_kit import blocks, make_contents, write, write_some


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(write(tmp_path / "a.zarr", make_contents("int8")))


def test_everything_is_selected_unless_asked_otherwise(store: Store) -> None:
    assert select(store, "zarr").arrays == {split: info.layers for split, info in store.manifest.splits.items()}
    plain = select(store, "npy")
    assert plain.dtype == "float16"
    layers = {name: ["mean", "patch", "prefix"] for name in ("layer_00", "layer_03")}
    assert plain.arrays == {"train": layers, "test": layers}
    # 2 layers; 6 patches and 2 prefix tokens in float16 and a mean in float32, 5 wide; 2 views of 11 images, and 3
    assert exported_bytes(store, plain) == 2 * 5 * ((6 + 2) * 2 + 4) * (2 * 11 + 3)
    # int8 brings one float16 scale per token
    assert exported_bytes(store, select(store, "zarr")) == 2 * (5 * (6 + 2) + 2 * (6 + 2) + 5 * 4) * (2 * 11 + 3)


@pytest.mark.parametrize(
    ("form", "stored", "asked", "written"),
    [
        ("npy", "bfloat16", None, "float32"),
        ("npy", "int8", None, "float16"),
        ("npy", "float32", None, "float32"),
        ("safetensors", "bfloat16", None, "bfloat16"),
        ("safetensors", "int8", "bfloat16", "bfloat16"),
        ("zarr", "bfloat16", None, "bfloat16"),
        ("zarr", "int8", "int8", "int8"),
    ],
)
def test_the_dtype_is_the_stored_one_where_the_form_has_it(
    tmp_path: Path, form: str, stored: str, asked: str | None, written: str
) -> None:
    store = open_store(write(tmp_path / "a.zarr", make_contents(stored)))
    assert select(store, form, dtype=asked).dtype == written


@pytest.mark.parametrize(
    ("form", "dtype", "message"),
    [
        ("npy", "bfloat16", "dtype 'bfloat16' asked for; npy can hold these int8 tokens as float16, float32"),
        ("safetensors", "int8", "safetensors can hold these int8 tokens as float16, bfloat16, float32"),
        ("zarr", "float16", "dtype 'float16' asked for; zarr can hold these int8 tokens as int8"),
    ],
)
def test_a_dtype_that_a_form_does_not_have_is_refused(store: Store, form: str, dtype: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select(store, form, dtype=dtype)


def test_what_is_not_stored_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match="unknown layer of the store '1'; known: 0, 3"):
        select(store, "npy", layers="1")
    with pytest.raises(InputError, match="unknown split 'val'; known: test, train"):
        select(store, "npy", splits=["val"])
    with pytest.raises(InputError, match="unknown array in test/layer_00 'patches'; known: patch, mean, prefix"):
        select(store, "npy", tokens=["patches"])
    with pytest.raises(InputError, match="unknown array in test/layer_00 'patch_scale'"):
        select(store, "npy", tokens=["patch_scale"])


def test_a_layer_that_is_not_complete_is_refused_and_others_are_not(tmp_path: Path) -> None:
    contents = make_contents()
    path = write(tmp_path / "a.zarr", contents.part({"train": {"layer_00": ["mean", "patch", "prefix"]}}))
    store = open_store(write_some(path, contents, blocks(contents.manifest)[:1]))
    with pytest.raises(StoreError, match=r"train/layer_03/mean of .* is not complete \(5 of 6 blocks are missing\)"):
        select(store, "zarr", splits=["train"])
    chosen = select(store, "zarr", splits=["train"], layers="0")
    export_store(store, tmp_path / "out.zarr", "zarr", chosen)
    assert open_store(tmp_path / "out.zarr").manifest.complete


@pytest.mark.parametrize(("out", "form"), [("a.zarr", None), ("a.zarr/", None), ("a", "zarr"), ("a", "npy")])
def test_the_form_is_the_one_asked_for_or_that_of_the_name(out: str, form: str | None) -> None:
    assert choose_form(out, form) == (form or "zarr")


@pytest.mark.parametrize(
    ("out", "form", "message"),
    [
        ("a", None, "the name 'a' does not tell the form; give --to npy, safetensors or zarr"),
        ("a.npy", None, "the name 'a.npy' does not tell the form"),
        ("a", "tar", "unknown form of export 'tar'; known: zarr, npy, safetensors"),
        ("a.h5", "zarr", "'a.h5' is the name of an HDF5 store, but --to zarr was given; end it in .zarr"),
        ("s3://bucket/a.zarr", None, "cannot export to the address 's3://bucket/a.zarr'; export to a folder"),
    ],
)
def test_a_name_without_a_form_is_refused(out: str, form: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_form(out, form)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_replaced(store: Store, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(InputError, match="out' exists, and an export replaces nothing; give another name"):
        export_store(store, out, form, select(store, form))
    out.rmdir()
    running = temporary_of(out, new_writer())
    running.mkdir()
    with pytest.raises(InputError, match=rf"^another export is writing '{out}', in '{running}'; wait for it"):
        export_store(store, out, form, select(store, form))
    assert not list(running.iterdir())
    running.rmdir()
    (tmp_path / "out.tmp").mkdir()  # a folder of somebody else
    export_store(store, out, form, select(store, form))
    assert (tmp_path / "out.tmp").is_dir()


@pytest.mark.parametrize("form", FORMS)
def test_an_interrupted_export_leaves_nothing(store: Store, tmp_path: Path, form: str) -> None:
    def interrupt(n_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_store(store, tmp_path / "out", form, select(store, form), interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize("form", FORMS)
def test_every_file_is_on_disk_before_the_folder_has_its_name(
    store: Store, tmp_path: Path, form: str, disk_calls: list[tuple[str, Path]]
) -> None:
    export_store(store, tmp_path / "out", form, select(store, form))
    synced = {path for call, path in disk_calls[: disk_calls.index(("rename", tmp_path / "out"))] if call == "fsync"}
    (growing,) = {tmp_path / path.relative_to(tmp_path).parts[0] for path in synced if path.parent != tmp_path}
    assert file_of(growing.name) == "out"
    assert {growing / path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*")} <= synced
    assert disk_calls[-2:] == [("rename", tmp_path / "out"), ("fsync", tmp_path)]


@pytest.mark.parametrize("form", ["npy", "safetensors"])
def test_a_killed_export_is_never_taken_for_a_whole_one(store: Store, tmp_path: Path, form: str) -> None:
    chosen = select(store, form)
    export_store(store, tmp_path / "whole", form, chosen)
    whole = content(tmp_path / "whole")

    def export(name: str) -> Callable[[], None]:
        return lambda: export_store(store, tmp_path / name, form, chosen)

    n_steps = count_steps(export("counted"))
    last = n_steps - 1  # happens after the renaming
    for step in [*range(0, n_steps - 6, n_steps // 8), *range(n_steps - 6, n_steps)]:
        assert fork_and_kill(export(str(step)), step)
        assert (tmp_path / str(step)).exists() == (step == last)
        if step != last:  # the same command again
            export(str(step))()
            assert content(tmp_path / str(step)) == whole
    assert not [path for path in tmp_path.iterdir() if file_of(path.name)]
    assert content(tmp_path / str(last)) == whole


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
