"""Heads of the reference implementation, made from its own vectors: the logits are those of its formula in float64."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import POOLINGS
from tokenprobe.probe.heads.published import SETTINGS, build_published, find_published, recognise

from .facts import FACTS
from .kit import DIM

N_CLASSES = 5
CASES = [(name, case, given) for name in SETTINGS for case, given in (FACTS[name].references or {}).items()]
UNSEEN: dict[str, dict[str, Any]] = {
    "aim": {"heads": 8},
    "jepa": {"heads": 8},
    "abmilp_map_relu3": {"self_attention": "map", "activation": "relu"},
}
UNSEEN |= {"abmilp_none_pe": {"content": "patch"}}
"""Settings of the vectors that neither names nor shapes tell, and that are not the default."""


def published(vectors: Mapping[str, Tensor], prefix: str = "") -> tuple[dict[str, Tensor], Tensor]:
    """Return the state_dict of a head around the pooling of the vectors, and its logits, in float64, naively."""
    generator = torch.Generator().manual_seed(0)
    width = vectors["pooled_eval"].shape[1]
    mean, var = torch.randn(width, generator=generator), torch.rand(width, generator=generator) + 0.5
    weight, bias = torch.randn(N_CLASSES, width, generator=generator) / width**0.5, torch.randn(N_CLASSES)
    own = {k.partition("/")[2]: v for k, v in vectors.items() if k.startswith(("param/", "buffer/"))}
    state = {f"0.{name}": value for name, value in own.items()}
    state |= {"1.running_mean": mean, "1.running_var": var, "1.num_batches_tracked": torch.tensor(7)}
    state |= {"2.weight": weight, "2.bias": bias}
    normed = (vectors["pooled_eval"].double() - mean) / (var.double() + 1e-6).sqrt()
    return {prefix + name: value for name, value in state.items()}, normed @ weight.double().T + bias


@pytest.mark.parametrize(("name", "case", "given"), CASES, ids=[case for _, case, _ in CASES])
def test_the_logits_are_those_of_the_reference(golden: Path, name: str, case: str, given: dict[str, Any]) -> None:
    vectors = load_file(golden / "heads" / f"{case}.safetensors")
    state, expected = published(vectors)
    found = find_published(state)
    recognised, settings = recognise(found, DIM)
    assert recognised == name and {**POOLINGS[name].defaults, **settings, **UNSEEN.get(case, {})} == {
        **POOLINGS[name].defaults,
        **given,
    }
    head = build_published(found, name, settings | UNSEEN.get(case, {}), DIM, (7, 7))
    assert not head.training
    with torch.no_grad():
        logits = head(vectors["x"])
    torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)


def test_every_pooling_of_the_reference_has_a_case() -> None:
    assert {name for name, _, _ in CASES} == {*SETTINGS} == {*POOLINGS} - {"alf", "linear"}


@pytest.mark.parametrize("prefix", ["head.", "module.head.", "state_dict.", "model.head.0."])
def test_a_head_is_found_behind_a_prefix(golden: Path, prefix: str) -> None:
    vectors = load_file(golden / "heads" / "ep_dout2.safetensors")
    state, expected = published(vectors, prefix)
    found = find_published(state | {"blocks.0.attn.qkv.weight": torch.zeros(3, 3)})
    head = build_published(found, *recognise(found, DIM), DIM, (7, 7))
    torch.testing.assert_close(head(vectors["x"]).double(), expected, rtol=1e-5, atol=1e-5)


def test_a_linear_probe_reads_the_class_token() -> None:
    state = {"0.running_mean": torch.full((8,), 2.0), "0.running_var": torch.full((8,), 4.0)}
    state |= {"1.weight": torch.eye(3, 8), "1.bias": torch.tensor([0.0, 1, 2])}
    found = find_published(state)
    name, settings = recognise(found, 8)
    assert (name, settings, found.n_classes) == ("linear", {"pool": "cls"}, 3)
    tokens = torch.randn(4, 1, 8)
    expected = (tokens[:, 0, :3] - 2) / (4 + 1e-6) ** 0.5 + torch.tensor([0.0, 1, 2])
    torch.testing.assert_close(build_published(found, name, settings, 8, (2, 2))(tokens), expected)


def ep_state(golden: Path) -> dict[str, Tensor]:
    return published(load_file(golden / "heads" / "ep.safetensors"))[0]


def test_what_is_no_head_is_refused_with_its_names(golden: Path) -> None:
    state = ep_state(golden)
    with pytest.raises(InputError, match=r"no heads with a pooling .* among the names none"):
        find_published({})
    without = {name: value for name, value in state.items() if name != "1.running_var"}
    with pytest.raises(InputError, match=r"no heads with .* among the names '0.cls_token', '0.v.weight', '1.num_bat"):
        find_published(without)
    twice = {f"{prefix}.{name}": value for prefix in ("model", "model_ema") for name, value in state.items()}
    with pytest.raises(InputError, match=r"2 heads with a pooling .* '2?.*', … \(14 in all\)"):
        find_published(twice)


@pytest.mark.parametrize("extra", [{"1.weight": torch.ones(96), "1.bias": torch.ones(96)}, {"2.scale": torch.ones(1)}])
def test_another_norm_or_classifier_is_refused(golden: Path, extra: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match=r"expected a BatchNorm1d without weights .*, found '"):
        find_published(ep_state(golden) | extra)


def test_a_classifier_without_bias_is_refused(golden: Path) -> None:
    state = ep_state(golden)
    del state["2.bias"]
    with pytest.raises(InputError, match=r"and a classifier \(weight, bias\), found .* and 'weight'$"):
        find_published(state)


def test_unknown_keys_are_listed(golden: Path) -> None:
    state = ep_state(golden)
    del state["0.v.weight"]
    with pytest.raises(InputError, match=r"no pooling .* has the keys 'cls_token'; known poolings: ep, abmilp, "):
        recognise(find_published(state), DIM)


def test_keys_of_one_pooling_with_shapes_of_another_are_refused(golden: Path) -> None:
    state = ep_state(golden) | {"0.v.weight": torch.zeros(())}
    with pytest.raises(
        InputError, match=r"the keys are those of ep, but not their shapes: cls_token \(1, 8, 96\), v.w"
    ):
        recognise(find_published(state), DIM)


def test_other_widths_are_refused(golden: Path) -> None:
    found = find_published(ep_state(golden))
    with pytest.raises(InputError, match=r"reference weight 'cls_token' of 'ep' is \(1, 8, 96\), expected \(8, 192\)"):
        build_published(found, *recognise(found, 192), 192, (7, 7))
    found = find_published(ep_state(golden) | {"2.weight": torch.zeros(5, 48)})
    with pytest.raises(
        InputError, match=r"'weight' of the BatchNorm or the classifier is \(5, 48\), but ep .* \(5, 96\)"
    ):
        build_published(found, *recognise(found, DIM), DIM, (7, 7))
    linear = {"0.running_mean": torch.zeros(96), "0.running_var": torch.ones(96)}
    found = find_published(linear | {"1.weight": torch.zeros(5, 96), "1.bias": torch.zeros(5)})
    with pytest.raises(InputError, match=r"'running_mean' of .* is \(96,\), but linear on tokens 96 wide needs none"):
        build_published(found, "linear", {"norm": "none"}, DIM, (7, 7))
