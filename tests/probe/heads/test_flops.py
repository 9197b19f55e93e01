"""Counted operations against products counted by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tokenprobe.probe.heads import Head, build_pooling
from tokenprobe.probe.heads.flops import count_flops

from .facts import KNOWN
from .kit import D, N

PAGE = Path(__file__).parents[3] / "docs" / "heads.md"


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


@pytest.mark.parametrize("name", [name for name, facts in KNOWN.items() if (facts.published_mflop or (0, 0))[0] > 1])
def test_every_folding_is_cheaper_than_the_published_order(name: str) -> None:
    published = KNOWN[name].published_mflop
    assert published is not None
    forward, train = published
    found, least = count(name), KNOWN[name].least_saving
    assert found.forward * least < 1e6 * forward
    assert found.train * least < 1e6 * train


@pytest.mark.parametrize("name", KNOWN)
def test_stacked_cells_cost_what_they_cost_alone(name: str) -> None:
    one, three = count(name), count(name, cells=3)
    assert three.forward == 3 * one.forward - 2 * KNOWN[name].shared_flops


def test_a_head_adds_its_classifier() -> None:
    with torch.device("meta"):
        head = Head(build_pooling("linear", dim=D, grid=(14, 14)), 1000)
    assert count_flops(head, 1, D) == (2 * D * 1000, 2 * 2 * D * 1000)  # nothing below wants a gradient


def documented() -> dict[str, list[str]]:
    """Return the cells of each row of the table in docs/heads.md, by head, but for rows that nobody has filled in."""
    rows = [[cell.strip() for cell in line.split("|")] for line in PAGE.read_text().splitlines()]
    return {cells[1].strip("`"): cells[2:8] for cells in rows if len(cells) == 9 and cells[2] != "FORMULA"}


@pytest.mark.parametrize("name", KNOWN)
def test_the_documentation_has_every_head_and_its_cost(name: str) -> None:
    """Parameters, then MFLOP published, folded, and folded with the backward."""
    with torch.device("meta"):
        pool = build_pooling(name, dim=D, grid=(14, 14))
    flops, published = count_flops(pool, N, D), KNOWN[name].published_mflop
    n_params = sum(parameter.numel() for parameter in pool.parameters())
    mflop = [published and published[0], flops.forward / 1e6, flops.train / 1e6]
    found = documented().get(name, ["FORMULA", "", "", "", "", "SOURCE"])
    row = [found[0], f"{n_params:,}", *("–" if number is None else f"{number:.1f}" for number in mflop), found[5]]
    assert found == row and found[0] != "FORMULA", (
        'docs/heads.md, "What they compute", lacks this row; fill in the formula, without "|", and the source:\n'
        f"| `{name}` | {' | '.join(row)} |"
    )
