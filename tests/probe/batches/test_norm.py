"""The final norm against torch's own modules."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tokenprobe.errors import InputError
from tokenprobe.probe.batches.norm import FinalNorm, kept_norm
from tokenprobe.store import Store, open_store

from ..kit import write_made


@pytest.mark.parametrize("module", [nn.LayerNorm(8, eps=1e-3), nn.RMSNorm(8, eps=1e-3), nn.LayerNorm(8, bias=False)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_kept_norm_is_the_module_it_came_from(
    write_store: Callable[..., Store], tmp_path: Path, module: nn.Module, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -2, 2)
    values = {n: p.tolist() for n, p in module.named_parameters()}
    kept = {"kind": type(module).__name__, "eps": module.eps, "weight": None, "bias": None} | values
    store = write_made(write_store, tmp_path / "s.zarr", final_norm=kept)
    norm = FinalNorm.from_json(kept_norm(open_store(store.path)))
    tokens = torch.from_numpy(np.random.default_rng(0).normal(2, 3, size=(2, 5, 8))).to(dtype)
    found = norm(tokens)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.allclose(
        found.double(), module.double()(tokens.double()), atol=1e-12 if dtype == torch.float64 else 1e-5
    )


@pytest.mark.parametrize("module", [nn.LayerNorm(4), nn.RMSNorm(4)])
def test_tokens_of_another_width_are_refused(module: nn.Module) -> None:
    values = {name: parameter.detach() for name, parameter in module.named_parameters()}
    norm = FinalNorm(type(module).__name__, 1e-6, values["weight"], values.get("bias"))
    norm.check(1, 4)
    with pytest.raises(
        InputError,
        match=r"tokens of layer 0 are 8 wide, but the final norm has 4 channels; leave this layer out of --layers",
    ):
        norm.check(0, 8)
    FinalNorm("LayerNorm", 1e-6, None, None).check(0, 8)


def test_a_store_without_a_norm_is_refused(write_store: Callable[..., Store], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"norm 'final': the store '.*' holds no final norm of 'timm:none'"):
        kept_norm(write_made(write_store, tmp_path / "s.zarr"))
