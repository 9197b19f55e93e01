"""V-JEPA's pooler at other depths: what it draws, loads and refuses."""

import pytest
import torch

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import build_pooling


def test_weights_that_write_to_the_residual_are_smaller_block_by_block() -> None:
    torch.manual_seed(0)
    pool = build_pooling("jepa", dim=96, grid=(3, 2), depth=4)
    drawn = {name: value.std().item() for name, value in pool.named_parameters() if name.endswith("_weight")}
    for block, number in (("block0_", 1), ("block1_", 2), ("block2_", 3), ("", 3)):
        for name in ("proj", "fc2"):
            assert drawn[f"{block}{name}_weight"] == pytest.approx(0.02 / (2 * number) ** 0.5, rel=0.05)
        assert drawn[f"{block}fc1_weight"] == pytest.approx(0.02, rel=0.05)
    assert drawn["block2_qkv_weight"] == pytest.approx(0.02, rel=0.05)


def test_the_blocks_have_the_names_of_the_reference() -> None:
    pool = build_pooling("jepa", dim=8, grid=(3, 2), heads=2, depth=3, cells=2)
    values = {name: value[0].clone() for name, value in pool.named_parameters()}
    state = {theirs: torch.full_like(values[ours], i) for i, (theirs, ours) in enumerate(pool.reference_names.items())}
    assert {name for name in state if name.startswith("blocks.1.")} == {
        f"blocks.1.{module}.{kind}"
        for module in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    }
    assert set(pool.reference_names.values()) == set(values)
    pool.load_reference(state)
    for theirs, ours in pool.reference_names.items():
        assert torch.equal(pool.get_parameter(ours)[1].flatten(), state[theirs].flatten())
    with pytest.raises(InputError, match="reference weights of 'jepa'"):
        pool.load_reference({name: value for name, value in state.items() if not name.startswith("blocks.")})


def test_a_depth_without_the_cross_attention_is_refused() -> None:
    with pytest.raises(InputError, match=r"^jepa with depth=0: expected 1 or more$"):
        build_pooling("jepa", dim=96, grid=(3, 2), depth=0)
