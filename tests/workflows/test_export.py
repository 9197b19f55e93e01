"""`probe export` from Python, on an extracted store."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tokenprobe.errors import InputError, NoSpaceError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.store import open_store
from tokenprobe.workflows.config import ExportConfig
from tokenprobe.workflows.export import export

from ..extract.kit import DiskUsage


@pytest.mark.usefixtures("messages")
def test_a_layer_goes_to_npy_and_the_rest_to_an_archive(
    tiny_config: Callable[..., ExtractConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = extract(tiny_config(out=tmp_path / "tiny.h5"))
    capsys.readouterr()
    config = ExportConfig(out=tmp_path / "npy", to="npy", layers="-1", split=["test"], tokens=["patch"])
    assert export(store, config) == tmp_path / "npy"
    n_bytes = sum(path.stat().st_size for path in (tmp_path / "npy").rglob("*") if path.is_file())
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'npy'}: {n_bytes / 1e3:,.1f} kB in ")
    found = np.concatenate([np.load(path) for path in sorted((tmp_path / "npy").rglob("view_0/*.npy"))])
    np.testing.assert_array_equal(found, open_store(store)["test"].tokens(2), strict=True)

    archive = export(store, ExportConfig(out=str(tmp_path / "b.zarr"), dtype="float16"))
    assert open_store(archive).manifest == open_store(store).manifest
    with pytest.raises(InputError, match=r"give --to npy, safetensors or zarr"):
        export(store, ExportConfig(out=tmp_path / "c"))


@pytest.mark.usefixtures("terminal")
def test_a_bar_ends_at_the_bytes_that_were_exported(
    tiny_config: Callable[..., ExtractConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = extract(tiny_config())
    capsys.readouterr()
    export(store, ExportConfig(out=tmp_path / "npy", to="npy", layers="0", split=["test"], tokens=["patch"]))
    # 24 images of 16 tokens of 12 channels, two bytes each
    assert "9.2/9.2 kB" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)


def test_a_full_disk_is_noticed_before_any_token_is_read(
    tiny_config: Callable[..., ExtractConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = extract(tiny_config())
    needed = 24 * 16 * 12 * 2
    config = ExportConfig(out=tmp_path / "npy", to="npy", layers="0", split=["test"], tokens=["patch"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**6, 0, needed - 1))
    with pytest.raises(NoSpaceError, match=r"^the export needs 9\.22 kB and '.*npy' has 9\.21 kB free; export fewer "):
        export(store, config)
    assert not (tmp_path / "npy").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**6, 0, needed))
    assert export(store, config).exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**6, 0, 1))
    export(store, ExportConfig(out=tmp_path / "archive.zarr"))  # its compressed size is not known beforehand
