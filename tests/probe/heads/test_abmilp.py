"""AbMILP: its settings and its position table."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import build_pooling
from tokenprobe.probe.heads.abmilp import sincos_position


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"self_attention": "bth"}, "unknown setting self_attention of abmilp 'bth'; known: both, map, none"),
        ({"activation": "gelu"}, "unknown setting activation of abmilp 'gelu'; known: relu, tanh"),
        ({"content": "cls"}, "unknown setting content of abmilp 'cls'; known: all, patch"),
        ({"cond": "sin"}, "unknown setting cond of abmilp 'sin'; known: none, pe"),
        ({"depth": 0}, "abmilp with depth=0: expected 1 or more"),
        ({"cond": "pe", "dim": 6}, "cond='pe' on tokens 6 wide: 4 must divide the width"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_pooling("abmilp", **{"dim": 8, "grid": (2, 2), **settings})


def test_the_position_table_is_the_reference_implementations(golden: Any) -> None:
    expected = load_file(golden / "heads" / "abmilp_none_pe.safetensors")["param/pos_embed"][0]
    torch.testing.assert_close(sincos_position((7, 7), 96).float(), expected, rtol=0, atol=1e-7)


def test_content_patch_leaves_prefix_tokens_out() -> None:
    x = torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(0))
    pool: Any = build_pooling("abmilp", dim=12, grid=(3, 2), content="patch", tokens="patch+prefix")
    assert torch.equal(pool(x), pool(x[:, 2:])) and pool.attention(x).shape == (2, 1, 6)


def test_prefix_tokens_come_first_and_have_the_position_zero() -> None:
    x = torch.randn(2, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"dim": 8, "grid": (2, 2), "self_attention": "none", "tokens": "patch+prefix"}
    pools: list[Any] = [build_pooling("abmilp", cond=cond, **settings).double() for cond in ("pe", "none")]
    placed, plain = pools
    placed.load_state_dict(plain.state_dict())
    z = torch.cat([x[:, :2], x[:, 2:] + sincos_position((2, 2), 8)], dim=1)
    torch.testing.assert_close(placed.attention(x), plain.attention(z), rtol=1e-12, atol=1e-12)


def test_positions_are_no_part_of_a_saved_head() -> None:
    pool = build_pooling("abmilp", dim=8, grid=(2, 2), cond="pe")
    assert "position" not in pool.state_dict()
    without = build_pooling("abmilp", dim=8, grid=(2, 2), self_attention="none", depth=1)
    with pytest.raises(InputError, match="reference weights of 'abmilp'"):
        without.load_reference({"pos_embed": torch.zeros(1, 4, 8)})
