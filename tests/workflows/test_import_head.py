"""A head of the reference implementation, in the files that it writes, behind a backbone: the logits are its own."""

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokenprobe.cli import main
from tokenprobe.errors import InputError, MissingError
from tokenprobe.probe import load_head
from tokenprobe.probe.run.saved import load_saved
from tokenprobe.workflows import export_pipeline
from tokenprobe.workflows.config import ImportHeadConfig, PredictConfig
from tokenprobe.workflows.import_head import import_head
from tokenprobe.workflows.predict import predict

from ..probe.heads.test_published import published

ARCHITECTURE: dict[str, Any] = {"img_size": 28, "patch_size": 4, "embed_dim": 96, "depth": 2, "num_heads": 2}
"""49 patch tokens 96 wide, as the reference vectors have them."""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from timm.models import VisionTransformer

    path = tmp_path_factory.mktemp("backbone") / "vit.safetensors"
    torch.manual_seed(0)
    save_file(VisionTransformer(**ARCHITECTURE, num_classes=0).state_dict(), path)
    return path


@pytest.fixture
def make(tmp_path: Path, backbone: Path) -> Callable[..., ImportHeadConfig]:
    def config(**changes: Any) -> ImportHeadConfig:
        given = {"model": "timm:VisionTransformer", "model_arg": ARCHITECTURE, "checkpoint": backbone}
        return ImportHeadConfig(**{**given, "out": tmp_path / "imported", **changes})

    return config


@pytest.fixture
def ep(golden: Path) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    vectors = load_file(golden / "heads" / "ep.safetensors")
    return *published(vectors), vectors["x"]


def test_a_published_file_becomes_a_head_that_predicts(
    make: Callable[..., ImportHeadConfig],
    ep: tuple[dict[str, Tensor], Tensor, Tensor],
    tmp_path: Path,
    backbone: Path,
    image_folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    state, logits, tokens = ep
    torch.save({"state_dict": state, "meta": {"model": "vit", "head_epoch": 89}}, tmp_path / "ep_head.pth")
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    with caplog.at_level(logging.INFO):
        out = import_head(tmp_path / "ep_head.pth", make(classes=tmp_path / "names.txt", layer=0))
    assert "recognised ep:queries=8; if it is another, name it with --head" in caplog.text
    with torch.no_grad():
        torch.testing.assert_close(load_head(out)(tokens).double(), logits, rtol=1e-5, atol=1e-5)
    about = load_saved(out)[1]
    assert (about.layers, about.classes, about.norm) == ([0], ["ant", "bee", "cat", "dog", "elk"], None)
    assert str(tmp_path).encode() not in (out / "head.safetensors").read_bytes()
    assert "not measured with tokenprobe" in (out / "README.md").read_text()
    model: Any = export_pipeline(out, checkpoint=backbone)
    images = torch.randn(2, 3, 28, 28)
    first = model.backbone.blocks[0](
        model.backbone.pos_drop(model.backbone._pos_embed(model.backbone.patch_embed(images)))
    )
    torch.testing.assert_close(model(images), load_head(out)(first[:, 1:]), rtol=1e-4, atol=1e-4)
    config = PredictConfig(images=str(image_folder / "test" / "ant"), checkpoint=backbone, workers=0, device="cpu")
    assert {*predict(out, config)["predicted"]} <= {"ant", "bee", "cat", "dog", "elk"}


def test_a_training_file_with_its_command_line_is_read(
    make: Callable[..., ImportHeadConfig], ep: tuple[dict[str, Tensor], Tensor, Tensor], tmp_path: Path
) -> None:
    state, logits, tokens = ep
    optimizer = {"state": {0: {"mu": torch.zeros(3)}}}
    content = {"model": state, "optimizer": optimizer, "epoch": 3, "args": argparse.Namespace(data_path="/x")}
    torch.save(content, tmp_path / "checkpoint.pth")
    out = import_head(tmp_path / "checkpoint.pth", make(head="ep:queries=8", norm="final"))
    about = load_saved(out)[1]
    assert about.layers == [1] and about.norm is not None and about.classes == ["0", "1", "2", "3", "4"]
    torch.testing.assert_close(load_head(out)(tokens).double(), logits, rtol=1e-5, atol=1e-5)


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_no_code_in_a_file_runs(make: Callable[..., ImportHeadConfig], tmp_path: Path) -> None:
    torch.save({"state_dict": {"0.cls_token": Malicious(tmp_path / "ran")}}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="which only code in the file can create, and no code is run"):
        import_head(tmp_path / "evil.pth", make())
    with pytest.raises(Exception, match="is damaged, or was written by another version"):
        load_head(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "ep:queries=4"}, r"does not fit layer 1 .* 96 wide: reference weight 'cls_token' of 'ep' is"),
        ({"head": "ep:queries=4|8"}, r"--head 'ep:queries=4\|8' must name one pooling, such as aim:heads=12"),
        ({"head": "knn"}, r"--head 'knn' must name one pooling"),
        ({"head": "aim"}, r"does not fit layer 1 .*: reference weights of 'aim': expected \['cls_token', 'k.weight'"),
        ({"layer": 2}, r"'timm:VisionTransformer' has no layer 2; give --layer 0 to 1, or -1 for the last"),
        ({"head": "linear:pool=embedding"}, r"96 wide: linear:pool=embedding,?.* reads an embedding, which the b"),
    ],
)
def test_what_does_not_fit_is_refused(
    make: Callable[..., ImportHeadConfig],
    ep: tuple[dict[str, Tensor], Tensor, Tensor],
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    save_file(ep[0], tmp_path / "ep.safetensors")
    with pytest.raises(InputError, match=message):
        import_head(tmp_path / "ep.safetensors", make(**changes))
    assert not (tmp_path / "imported").exists()


def test_other_classes_than_the_heads_are_refused(
    make: Callable[..., ImportHeadConfig], ep: tuple[dict[str, Tensor], Tensor, Tensor], tmp_path: Path
) -> None:
    save_file(ep[0], tmp_path / "ep.safetensors")
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    with pytest.raises(InputError, match=r"'.*names.txt' has 2 lines, and the head 5 classes; give one name per line"):
        import_head(tmp_path / "ep.safetensors", make(classes=tmp_path / "names.txt"))
    with pytest.raises(MissingError, match=r"no file of classes at '.*gone.txt'"):
        import_head(tmp_path / "ep.safetensors", make(classes=tmp_path / "gone.txt"))
    with pytest.raises(InputError, match=r"cannot read the classes in '.*ep.safetensors'"):
        import_head(tmp_path / "ep.safetensors", make(classes=tmp_path / "ep.safetensors"))


def test_a_backbone_without_what_the_head_reads_is_refused(
    make: Callable[..., ImportHeadConfig], tmp_path: Path
) -> None:
    state = {"0.running_mean": torch.zeros(8), "0.running_var": torch.ones(8)}
    save_file(state | {"1.weight": torch.zeros(2, 8), "1.bias": torch.zeros(2)}, tmp_path / "lp.safetensors")
    resnet: dict[str, Any] = {"model": "timm:resnet18", "model_arg": {"channels": [8, 8, 8, 8], "stem_width": 8}}
    import timm

    save_file(timm.create_model("resnet18", **resnet["model_arg"]).state_dict(), tmp_path / "r.safetensors")
    resnet |= {"checkpoint": tmp_path / "r.safetensors", "image_size": [32]}
    with pytest.raises(InputError, match=r"linear:pool=cls reads a class token, and 'timm:resnet18' has none; name an"):
        import_head(tmp_path / "lp.safetensors", make(**resnet))
    with pytest.raises(InputError, match=r"'timm:resnet18' has no final norm; give --norm none"):
        import_head(tmp_path / "lp.safetensors", make(**resnet, head="linear:pool=mean", norm="final"))


def test_a_file_without_a_head_says_so_on_the_command_line(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["heads", "import", str(backbone), "-m", "timm:vit_base_patch16_224", "-o", str(tmp_path / "h")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"probe heads import: '{backbone}': no heads with a pooling (0.*), the statistics of")
    assert error.count("\n") == 1


@pytest.mark.parametrize("key", ["0.cls_token", "1.running_var", "2.weight"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_tensors_that_are_no_weights_are_refused(
    make: Callable[..., ImportHeadConfig],
    ep: tuple[dict[str, Tensor], Tensor, Tensor],
    tmp_path: Path,
    key: str,
    dtype: torch.dtype,
) -> None:
    state, _, _ = ep
    save_file(state | {key: state[key].to(dtype)}, tmp_path / "head.safetensors")
    with pytest.raises(
        InputError, match=rf"head\.safetensors': '{key[2:]}' is .*{dtype}; save the weights as float16, "
    ):
        import_head(tmp_path / "head.safetensors", make())
