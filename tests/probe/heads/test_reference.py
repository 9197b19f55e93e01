"""Every pooling against its reference implementation: vectors, parameter counts, and loading its weights."""

import json
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import Head, build_pooling

from .facts import KNOWN
from .formulas import Settings
from .kit import DIM, D

REFERENCE = {case: (name, of) for name, facts in KNOWN.items() for case, of in (facts.references or {}).items()}
PUBLISHED_COUNTS = [(name, settings, total) for name, facts in KNOWN.items() for settings, total in facts.counts]
KINDS = ("param", "buffer", "buffer_after", "grad")
"""Parts of a reference file; what a key starts with."""


@pytest.mark.parametrize("case", REFERENCE)
def test_outputs_and_gradients_equal_the_reference_implementation(golden: Path, case: str) -> None:
    vectors = load_file(golden / "heads" / f"{case}.safetensors")
    of = {kind: {k.split("/")[1]: v for k, v in vectors.items() if k.startswith(f"{kind}/")} for kind in KINDS}
    name, settings = REFERENCE[case]
    pool: Any = build_pooling(name, dim=DIM, grid=(7, 7), **settings)
    pool.load_reference(of["param"] | of["buffer"])
    assert_close(pool.eval()(vectors["x"]), vectors["pooled_eval"])
    pooled = pool.train()(vectors["x"])
    assert_close(pooled, vectors["pooled_train"])
    (pooled * vectors["cotangent"]).sum().backward()
    overall = sqrt(sum(float(gradient.norm()) ** 2 for gradient in of["grad"].values()))
    for theirs, ours in pool.reference_names.items():
        found, expected = pool.get_parameter(ours).grad, of["grad"].get(theirs)
        if found is None:  # nothing depends on it: the files hold no gradient, or the rounding of a zero
            assert expected is None or expected.norm() < 1e-7 * overall, theirs
        else:
            assert expected is not None
            difference = (found[0].view(expected.shape) - expected).norm()
            assert difference <= 1e-5 * max(float(expected.norm()), 1e-3 * overall), theirs
    for theirs, buffer in pool.reference_buffers.items():
        if buffer is not None and f"buffer_after/{theirs}" in vectors:
            assert_close(pool.get_buffer(buffer)[0], of["buffer_after"][theirs])


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_facts_and_manifest_list_the_same_reference_vectors(golden: Path) -> None:
    assert set(REFERENCE) == set(json.loads((golden / "heads" / "manifest.json").read_text()))


@pytest.mark.parametrize(("name", "settings", "total"), PUBLISHED_COUNTS)
def test_parameter_counts_are_the_published_ones(name: str, settings: Settings, total: int) -> None:
    with torch.device("meta"):
        plain = Head(build_pooling(name, dim=D, grid=(14, 14), **settings), 1000)
        stacked = Head(build_pooling(name, dim=D, grid=(14, 14), cells=2, **settings), 1000)
    assert plain.n_params() == total == sum(parameter.numel() for parameter in plain.parameters())
    assert stacked.n_params() == total


STATE = {"cls_token": torch.zeros(1, 4, 8), "v.weight": torch.zeros(4, 8)}


def make_ep(**changes: Any) -> Any:
    return build_pooling("ep", dim=8, grid=(2, 2), queries=4, d_out=2, **changes)


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


def test_reference_weights_go_to_every_cell_and_statistics_may_be_left_out(golden: Path) -> None:
    vectors = load_file(golden / "heads" / "aim.safetensors")
    parameters, buffers = (
        {k.split("/")[1]: v for k, v in vectors.items() if k.startswith(s)} for s in ("param", "buffer/")
    )
    pool: Any = build_pooling("aim", dim=96, grid=(7, 7), cells=2)
    pool.load_reference(parameters)
    assert torch.equal(pool.running_var, torch.ones(2, 96))
    pool.load_reference(parameters | buffers)
    for cell in range(2):
        assert torch.equal(pool.query[cell], parameters["cls_token"][0])
        assert torch.equal(pool.running_var[cell], buffers["bn.running_var"])
