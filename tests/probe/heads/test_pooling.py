"""What every pooling shares: the registry, reference weights, stacking."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import POOLINGS, build_pooling
from tokenprobe.probe.heads.pooling import uniform_initial

STATE = {"cls_token": torch.zeros(1, 4, 8), "v.weight": torch.zeros(4, 8)}


def make_ep(**changes: Any) -> Any:
    return build_pooling("ep", dim=8, grid=(2, 2), queries=4, d_out=2, **changes)


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("cells", [None, 1, 3])
def test_every_pooling_maps_tokens_to_vectors_of_its_width(name: str, cells: int | None) -> None:
    pool = build_pooling(name, dim=96, grid=(7, 7), cells=cells)
    expected = (2, pool.out_dim) if cells is None else (2, cells, pool.out_dim)
    assert pool(torch.randn(2, 49, 96)).shape == expected
    assert pool(torch.randn(1, 49, 96)).shape == (1, *expected[1:])
    assert all(len(parameter) == (cells or 1) for parameter in pool.parameters())


@pytest.mark.parametrize("name", POOLINGS)
def test_the_registry_agrees_with_the_pooling(name: str) -> None:
    pool = build_pooling(name, dim=96, grid=(7, 7), **POOLINGS[name].defaults)
    assert pool.name == name and set(pool.inputs) <= {"patch", "prefix", "mean"}


@pytest.mark.parametrize("name", POOLINGS)
def test_every_pooling_gives_the_same_stacked_as_alone(name: str) -> None:
    x = torch.randn(2, 49, 96, dtype=torch.float64)
    stacked = build_pooling(name, dim=96, grid=(7, 7), cells=3).double()
    together = stacked(x)
    for cell in range(3):
        alone = build_pooling(name, dim=96, grid=(7, 7)).double()
        alone.load_state_dict({key: value[cell : cell + 1] for key, value in stacked.state_dict().items()})
        torch.testing.assert_close(together[:, cell], alone(x), rtol=1e-12, atol=1e-12)


def test_unknown_head_lists_the_nearest_first() -> None:
    with pytest.raises(InputError, match="unknown head 'linaer'; known: linear, "):
        build_pooling("linaer", dim=8, grid=(2, 2))


def test_unknown_setting_lists_the_nearest_first() -> None:
    with pytest.raises(InputError, match="unknown setting of head 'ep' 'd_uot'; known: d_out, queries"):
        build_pooling("ep", dim=8, grid=(2, 2), d_uot=2)


@pytest.mark.parametrize(
    "state",
    [{}, {"cls_token": STATE["cls_token"]}, STATE | {"k.weight": torch.zeros(8, 8)}],
    ids=["none", "one missing", "one too many"],
)
def test_reference_weights_of_other_names_are_refused(state: dict[str, Tensor]) -> None:
    with pytest.raises(
        InputError, match=r"reference weights of 'ep': expected \['cls_token', 'v.weight'\], found"
    ) as e:
        make_ep().load_reference(state)
    assert str(e.value).endswith(str(sorted(state)))


def test_reference_weights_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"reference weight 'v.weight' of 'ep' is \(8, 8\), expected \(4, 8\)"):
        make_ep().load_reference(STATE | {"v.weight": torch.zeros(8, 8)})


def test_reference_weights_of_another_shape_but_the_same_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"reference weight 'v.weight' of 'ep' is \(8, 4\), expected \(4, 8\)"):
        make_ep().load_reference(STATE | {"v.weight": torch.zeros(8, 4)})


def test_uniform_initial_fills_its_range_evenly() -> None:
    drawn = uniform_initial(100, 400, fan_in=16, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (100, 400)
    counts = torch.histc(drawn, bins=10, min=-0.25, max=0.25)
    assert counts.sum() == 40_000  # all within the bounds
    assert ((counts - 4000).abs() < 5 * 3600**0.5).all()  # five standard deviations of a binomial
