"""Names of heads: in words, and different where the heads are."""

import pytest

from tokenprobe.probe.grid.specs import HEADS, parse_heads
from tokenprobe.probe.report.head_names import head_name


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("ep:queries=32", "EP, 32 queries"),
        ("ep:queries=1,d_out=2", "EP, 1 query, output 1/2 wide"),
        ("linear:pool=cls", "linear probe, class token"),
        ("linear:pool=cls+mean,unit=true", "linear probe, class and mean token, unit length"),
        ("knn:k=5,temperature=0.1", "k-NN, k = 5, T = 0.1"),
        ("aim:heads=4", "AIM, 4 heads"),
        ("abmilp:self_attention=both,activation=relu", "AbMILP, self_attention = both, activation = relu"),
        ("alf:heads=0,dropout=0.1", "ALF, heads by default, dropout 0.1"),
        ("linear:pool=cls,norm=none", "linear probe, class token, no BatchNorm"),
        ("cbam", "CBAM"),
        ("later:queries=3", "later:queries=3"),
    ],
)
def test_settings_are_words(spec: str, name: str) -> None:
    kind, _, config = spec.partition(":")
    assert head_name(kind, config) == name


def test_heads_that_differ_have_names_that_differ() -> None:
    specs = [
        *HEADS, "ep:queries=8|16|64", "ep:queries=8,d_out=2", "linear:pool=cls|cls+mean|max|embedding,unit=true|false",
        "knn:k=5|10,temperature=0.07|0.1", "ridge:pool=cls|mean", "coca:heads=4|8,queries=2|4", "clip:heads=1|2",
    ]  # fmt: skip
    heads = parse_heads(specs)
    assert len(heads) > 40
    assert len({head_name(head.name, head.config) for head in heads}) == len(heads)
    assert len({kind.title for kind in HEADS.values()}) == len(HEADS)
