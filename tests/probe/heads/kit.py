"""Shared by the tests of heads: the facts that they ask of every head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .formulas import Settings

N, D = 196, 768
"""Tokens of an image, and their width, in the published comparison."""
DIM = 96
"""Width of the tokens of most other tests here, and of the reference vectors."""


@dataclass(frozen=True, kw_only=True)
class HeadFacts:
    """Facts of one head. All from `maps_sum` on are exceptions: most heads leave them out.

    Attributes:
        defaults: every setting and its default, in the order of labels, which saved results hold.
        cases: settings to compare with the formula of formulas.py, on six patch tokens 24 wide.
        references: settings by file of reference vectors, `tests/data/heads/NAME.safetensors`, made with 49 tokens 96
            wide; None if the head has no reference implementation.
        counts: settings, and the parameters of a head with them, for 1,000 classes and tokens 768 wide.
        published_mflop: of the reference implementation with its defaults, per image of 196 tokens 768 wide, forward
            and forward with backward; None if there is none to count.
        drawn: over the weights that seed 0 gives on tokens 96 wide, in the order of their names, the sum of w_i cos(i);
            None if there are no weights.
        starts: parameters, each with the mean and the standard deviation of its initial values on tokens 96 wide. All
            that the paper names, and at least one that is random, if any is.
        trained: settings to train together and alone, on tokens 12 wide, as `--head` takes them.
        saved: settings to fit, save and load, on tokens 8 wide, and an embedding 5 wide.
        maps_sum: over tokens: "one", "below one" or "anything".
        inputs: arrays of the store that it reads by default.
        any_heads: its setting `heads` need not divide the width.
        zero_heads: with heads=0 the width decides their number.
        least_saving: folded, it takes fewer operations than published by at least this factor.
        shared_flops: operations per image that stacked cells make once for all of them, for 196 tokens 768 wide.
        bfloat16_gradient: largest relative error of a gradient under autocast.
        unstable: of a trained head, parameters and buffers that hold rounding errors only: a constant that BatchNorm
            takes away again has no gradient but those, and AdamW makes steps of whatever there is.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    cases: Sequence[Settings] = ({},)
    references: Mapping[str, Settings] | None = field(default_factory=dict)
    counts: Sequence[tuple[Settings, int]] = ()
    published_mflop: tuple[float, float] | None = None
    drawn: float | None = None
    starts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    trained: Sequence[str] = ("",)
    saved: Sequence[str] = ("",)
    maps_sum: str = "one"
    inputs: tuple[str, ...] = ("patch",)
    any_heads: bool = False
    zero_heads: bool = False
    least_saving: float = 7
    shared_flops: int = 0
    bfloat16_gradient: float = 0.02
    unstable: frozenset[str] = frozenset()
