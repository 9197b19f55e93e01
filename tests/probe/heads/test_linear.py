"""The linear probe's poolings."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import Head, build_pooling

KINDS = ["cls", "mean", "cls+mean", "max", "embedding"]
X = torch.randn(4, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def make_linear(**settings: Any) -> Any:
    return build_pooling("linear", dim=8, grid=(2, 3), **settings)


def test_mean_takes_the_mean_over_tokens_or_the_stored_mean() -> None:
    expected: Tensor = sum((X[:, n] for n in range(6)), torch.zeros(())) / 6
    pool = make_linear()
    assert pool.inputs == ("mean",) and pool.out_dim == 8
    torch.testing.assert_close(pool(X), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(pool(expected[:, None]), expected)


def test_cls_takes_the_first_prefix_token() -> None:
    pool = make_linear(pool="cls")
    assert pool.inputs == ("prefix",)
    assert torch.equal(pool(X), X[:, 0])


def test_cls_and_mean_are_joined() -> None:
    pool = make_linear(pool="cls+mean")
    assert pool.inputs == ("prefix", "mean") and pool.out_dim == 16
    joined = torch.cat([X[:, :3], X.mean(1, keepdim=True)], dim=1)  # three prefix tokens, then the stored mean
    assert torch.equal(pool(joined), torch.cat([X[:, 0], X.mean(1)], dim=1))


def test_max_takes_the_largest_value_of_each_channel() -> None:
    pool = make_linear(pool="max")
    assert pool.inputs == ("patch",)
    expected = [[max(float(X[b, n, d]) for n in range(6)) for d in range(8)] for b in range(4)]
    assert pool(X).tolist() == expected


def test_the_embedding_is_taken_as_it_is() -> None:
    pool = make_linear(pool="embedding")
    assert pool.inputs == ("embedding",) and pool.out_dim == 8
    assert torch.equal(pool(X[:, :1]), X[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_stacked_cells_all_get_the_same_vector(kind: str) -> None:
    stacked = make_linear(pool=kind, cells=3)(X)
    assert torch.equal(stacked, make_linear(pool=kind)(X)[:, None].repeat(1, 3, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_unit_divides_the_pooled_vector_by_its_norm(kind: str) -> None:
    plain, unit = make_linear(pool=kind)(X), make_linear(pool=kind, unit=True)(X)
    for ours, vector in zip(unit, plain, strict=True):
        torch.testing.assert_close(ours, vector / sum(v * v for v in vector) ** 0.5, rtol=1e-12, atol=1e-12)


def test_a_norm_that_half_precision_cannot_hold_is_found() -> None:
    unit = make_linear(pool="cls", unit=True)(torch.full((1, 1, 8), 6e4, dtype=torch.float16))
    torch.testing.assert_close(unit, torch.full((1, 8), 8**-0.5))


def test_there_is_nothing_to_train_before_the_classifier() -> None:
    pool = make_linear(cells=2)
    assert list(pool.parameters()) == []
    pool.load_reference({})


@pytest.mark.parametrize("kind", ["cls", "mean"])
def test_the_linear_head_is_batchnorm_and_linear_on_the_pooled_vector(kind: str) -> None:
    head = Head(make_linear(pool=kind), 3).double()
    plain = nn.Sequential(nn.BatchNorm1d(8, affine=False, eps=1e-6), nn.Linear(8, 3)).double()
    plain[1].load_state_dict({"weight": head.weight[0], "bias": head.bias[0]})
    torch.testing.assert_close(head(X), plain(X[:, 0] if kind == "cls" else X.mean(1)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cells", [None, 3])
def test_without_a_norm_the_head_is_linear_on_the_pooled_vector(cells: int | None) -> None:
    head = Head(make_linear(pool="cls+mean", norm="none", cells=cells), 3).double()
    assert set(head.state_dict()) == {"weight", "bias"}
    pooled = torch.cat([X[:, 0], X[:, -1]], dim=1)
    for training in (True, False):
        found = head.train(training)(X)
        for cell in range(cells or 1):
            expected = pooled @ head.weight[cell].T + head.bias[cell]
            torch.testing.assert_close(found if cells is None else found[:, cell], expected, rtol=1e-12, atol=1e-12)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(InputError, match="unknown setting norm of linear 'nome'; known: none, batch"):
        make_linear(norm="nome")


def test_an_unknown_pool_is_refused() -> None:
    with pytest.raises(InputError, match="unknown setting pool of linear 'maen'; known: mean, "):
        make_linear(pool="maen")
