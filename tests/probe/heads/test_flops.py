"""Counted operations against products counted by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tokenprobe.probe.heads import POOLINGS, Head, build_pooling
from tokenprobe.probe.heads.flops import count_flops

N, D = 196, 768
NAIVE_MFLOP = {
    "abmilp": (1274.4, 3129.5), "simpool": (233.0, 697.8), "clip": (1048.8, 3146.4), "siglip": (474.8, 962.0),
    "aim": (463.0, 926.7), "ep": (241.15, 482.6), "coca": (425.5, 1237.9), "cait": (477.2, 1431.6),
    "dinovit": (2892.6, 8677.6), "jepa": (474.8, 1424.5), "dolg": (231.5, 463.3), "cae": (465.4, 1396.2),
    "cbam": (0.33, 0.85), "esimpool": (0.60, 1.5), "linear": (0.0, 0.0),
}  # fmt: skip
"""Of the reference implementation, per image, forward and forward with backward."""


def count(name: str, **settings: Any) -> Any:
    with torch.device("meta"):
        return count_flops(build_pooling(name, dim=D, grid=(14, 14), **settings), N, D)


def test_ep_costs_two_products_with_the_tokens_and_its_blocks() -> None:
    queries, products = 2 * 2 * 32 * N * D, 2 * D * D
    assert count("ep").forward == queries + products == 20_447_232
    assert count("ep").train == 2 * queries + 3 * products
    assert count("ep", queries=12, d_out=2).forward == 2 * 2 * 12 * N * D + D * D


@pytest.mark.parametrize(("name", "maps"), [("aim", 16), ("cae", 8)])
def test_a_data_independent_query_costs_its_maps_and_the_maps_of_the_aggregate(name: str, maps: int) -> None:
    n_dense = {"aim": 1, "cae": 2}[name]
    assert count(name).forward == 2 * 2 * maps * N * D + n_dense * 2 * D * D


def test_clip_computes_one_row() -> None:
    """The mean, four maps with positions, and the query, key, value and output maps once an image."""
    of_tokens = 2 * N * D + 2 * 2 * 4 * N * D + 2 * 2 * 4 * (N + 1) * D
    assert count("clip").forward == of_tokens + 4 * 2 * D * D


@pytest.mark.parametrize("name", [name for name, (forward, _) in NAIVE_MFLOP.items() if forward > 1])
def test_every_folding_is_cheaper_than_the_published_order(name: str) -> None:
    forward, train = NAIVE_MFLOP[name]
    found = count(name)
    least = {"dolg": 0.99, "dinovit": 1.4, "abmilp": 1.9}.get(name, 7)
    assert found.forward * least < 1e6 * forward
    assert found.train * least < 1e6 * train


@pytest.mark.parametrize("name", POOLINGS)
def test_stacked_cells_cost_what_they_cost_alone(name: str) -> None:
    shared = {"clip": 2 * N * D}  # the mean of normed tokens is the same for all cells
    one, three = count(name), count(name, cells=3)
    assert three.forward == 3 * one.forward - 2 * shared.get(name, 0)


def test_a_head_adds_its_classifier() -> None:
    with torch.device("meta"):
        head = Head(build_pooling("linear", dim=D, grid=(14, 14)), 1000)
    assert count_flops(head, 1, D) == (2 * D * 1000, 2 * 2 * D * 1000)  # nothing below wants a gradient


def test_the_documentation_has_every_head_and_its_cost() -> None:
    """The table in docs/heads.md: parameters, then MFLOP published, folded, and folded with the backward."""
    lines = (Path(__file__).parents[3] / "docs" / "heads.md").read_text().splitlines()
    rows = {cells[1].strip("` "): cells[3:7] for cells in (line.split("|") for line in lines) if len(cells) == 9}
    for name in POOLINGS:
        with torch.device("meta"):
            pool = build_pooling(name, dim=D, grid=(14, 14))
        flops = count_flops(pool, N, D)
        n_params = sum(parameter.numel() for parameter in pool.parameters())
        expected = [
            f"{n_params:,}",
            f"{NAIVE_MFLOP[name][0]:.1f}",
            f"{flops.forward / 1e6:.1f}",
            f"{flops.train / 1e6:.1f}",
        ]
        assert [cell.strip() for cell in rows[name]] == expected, name
