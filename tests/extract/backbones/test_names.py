"""Names of models in manifests, and errors of other libraries in one line."""

import pytest

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
