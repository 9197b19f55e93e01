"""Names of models in manifests, and errors of other libraries in one line."""

import errno
from pathlib import Path

import pytest
from huggingface_hub import constants

from tokenprobe.extract.backbones.names import portable, reason


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224"),
        ("hf-hub:org/name", "hf-hub:org/name"),
        ("local-dir:/home/me/vit", "local-dir:vit"),
        ("local-dir:/home/me/vit/", "local-dir:vit"),
    ],
)
def test_a_manifest_keeps_no_folders(name: str, kept: str) -> None:
    assert portable(name) == kept


def test_an_error_of_many_lines_is_told_in_one() -> None:
    assert reason(ValueError("\nfirst\nsecond")) == "first"
    assert reason(RuntimeError("errors in loading:\n\tsize mismatch\n\tanother")) == "errors in loading: size mismatch"
    assert reason(ValueError("first:")) == "first:"
    assert reason(KeyError()) == "KeyError"


def test_a_full_disk_is_told_with_the_folders_that_downloads_go_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    full, wrapped = OSError(errno.ENOSPC, "No space left on device"), RuntimeError("Failed to download weights")
    wrapped.__cause__ = full
    places = f"'{tmp_path}/hf' ($HF_HOME) and '{tmp_path}/torch/hub' ($TORCH_HOME)"
    for error in (full, wrapped):
        assert reason(error) == f"no space left on the disk; downloads go to {places}"
    assert reason(OSError(errno.EACCES, "Permission denied")) == "[Errno 13] Permission denied"
