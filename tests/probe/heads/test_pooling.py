"""What every pooling must do, over the registry: reference vectors, counts, stacking, any batch, grid and precision."""

import json
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import POOLINGS, Head, build_pooling
from tokenprobe.probe.heads.attentive import AttentivePooling

REFERENCE: dict[str, tuple[str, dict[str, Any]]] = {
    "ep": ("ep", {"queries": 8}),
    "ep_dout2": ("ep", {"queries": 4, "d_out": 2}),
    "abmilp": ("abmilp", {}),
    "abmilp_map_relu3": ("abmilp", {"self_attention": "map", "activation": "relu", "depth": 3}),
    "abmilp_none_pe": ("abmilp", {"self_attention": "none", "content": "patch", "cond": "pe"}),
    "simpool": ("simpool", {}),
    "esimpool": ("esimpool", {}),
    "clip": ("clip", {}),
    "siglip": ("siglip", {}),
    "aim": ("aim", {"heads": 8}),
    "cbam": ("cbam", {}),
    "coca": ("coca", {}),
    "cait": ("cait", {}),
    "dinovit": ("dinovit", {}),
    "jepa": ("jepa", {"heads": 8}),
    "dolg": ("dolg", {}),
    "cae": ("cae", {}),
}
PUBLISHED_COUNTS: list[tuple[str, dict[str, Any], int]] = [
    ("abmilp", {}, 3_720_425),
    ("abmilp", {"self_attention": "none"}, 1_360_361),
    ("abmilp", {"self_attention": "none", "depth": 1}, 769_769),
    ("abmilp", {"depth": 1}, 2_360_833 + 769_000),
    ("simpool", {}, 1_950_184),
    ("esimpool", {}, 770_536),
    ("clip", {}, 3_284_200),
    ("siglip", {}, 7_854_568),
    ("aim", {}, 1_949_416),
    ("aim", {"heads": 12}, 1_949_416),
    ("ep", {}, 1_383_400),
    ("ep", {"queries": 12}, 1_368_040),
    ("ep", {"queries": 1}, 1_359_592),
    ("ep", {"queries": 128, "d_out": 2}, 778_216),
    ("ep", {"queries": 48, "d_out": 8}, 207_592),
    ("cbam", {}, 842_828),
    ("coca", {}, 1_805_032),
    ("cait", {}, 7_860_712),
    ("dinovit", {}, 7_854_568),
    ("jepa", {}, 7_857_640),
    ("dolg", {}, 1_361_897),
    ("cae", {}, 3_135_976),
    ("linear", {}, 769_000),
]
ATTENTIVE = [name for name, pooling in POOLINGS.items() if issubclass(pooling, AttentivePooling)]
WITH_PREFIX = [name for name in ATTENTIVE if "tokens" in POOLINGS[name].defaults]
SUMS_TO_ONE = set(ATTENTIVE) - {"cbam", "dolg", "clip", "cait"}
BFLOAT16_GRADIENT = {"abmilp": 0.1, "dolg": 0.05}
"""Where it is not 0.02: logits of tens between tokens are rounded; a norm is taken of rounded products."""
DIM, GRID = 96, (3, 2)
KINDS = ("param", "buffer", "buffer_after", "grad")
"""Parts of a reference file; what a key starts with."""


def make_tokens(n_images: int = 3, n_tokens: int = 6, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Make tokens with the outlier channels of real ones."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_images, n_tokens, DIM, dtype=torch.float64, generator=generator)
    return (x * torch.linspace(0.2, 2, DIM).exp() + torch.linspace(0, 3, DIM)).to(dtype)


def make(name: str, *, seeds: tuple[int, ...] | None = None, **settings: Any) -> Any:
    """Build a pooling in float64: plain, or a cell for each seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds or (0,)]
    cells = len(seeds) if seeds else None
    settings = {"dim": DIM, "grid": GRID} | settings
    return build_pooling(name, cells=cells, generators=generators, **settings).double()


def stir(pool: Any, seed: int = 0) -> Any:
    """Move every parameter and statistic away from zeros, ones and other special values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in pool.parameters():
            value.add_(0.1 * torch.randn(value.shape, dtype=torch.float64, generator=generator))
        for name, value in pool.named_buffers():
            if name.startswith("running"):
                value.add_(torch.rand(value.shape, dtype=torch.float64, generator=generator))
    return pool


@pytest.mark.parametrize("case", REFERENCE)
def test_outputs_and_gradients_equal_the_reference_implementation(golden: Path, case: str) -> None:
    vectors = load_file(golden / "heads" / f"{case}.safetensors")
    of = {kind: {k.split("/")[1]: v for k, v in vectors.items() if k.startswith(f"{kind}/")} for kind in KINDS}
    name, settings = REFERENCE[case]
    pool = build_pooling(name, dim=96, grid=(7, 7), **settings)
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
            difference = (found[0].view(expected.shape) - expected).norm()
            assert difference <= 1e-5 * max(float(expected.norm()), 1e-3 * overall), theirs
    for theirs, ours in pool.reference_buffers.items():
        if ours is not None and f"buffer_after/{theirs}" in vectors:
            assert_close(pool.get_buffer(ours)[0], of["buffer_after"][theirs])


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_the_reference_vectors_cover_the_registry(golden: Path) -> None:
    assert set(REFERENCE) == set(json.loads((golden / "heads" / "manifest.json").read_text()))
    assert {name for name, _ in REFERENCE.values()} == set(POOLINGS) - {"linear"}


@pytest.mark.parametrize(("name", "settings", "total"), PUBLISHED_COUNTS)
def test_parameter_counts_are_the_published_ones(name: str, settings: dict[str, Any], total: int) -> None:
    with torch.device("meta"):
        plain = Head(build_pooling(name, dim=768, grid=(14, 14), **settings), 1000)
        stacked = Head(build_pooling(name, dim=768, grid=(14, 14), cells=2, **settings), 1000)
    assert plain.n_params() == total == sum(parameter.numel() for parameter in plain.parameters())
    assert stacked.n_params() == total


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("cells", [None, 1, 3])
@pytest.mark.parametrize("grid", [(2, 3), (7, 1), (1, 1)])
def test_any_grid_and_batch_size_gives_vectors_of_the_poolings_width(
    name: str, cells: int | None, grid: tuple[int, int]
) -> None:
    pool = build_pooling(name, dim=DIM, grid=grid, cells=cells).eval()
    n_tokens = grid[0] * grid[1]
    for n_images in (2, 1):
        expected = (n_images, pool.out_dim) if cells is None else (n_images, cells, pool.out_dim)
        pooled = pool(make_tokens(n_images, n_tokens, torch.float32))
        assert pooled.shape == expected and pooled.isfinite().all()
    for value in (*pool.parameters(), *pool.state_dict().values()):
        assert len(value) == (cells or 1)


@pytest.mark.parametrize("name", POOLINGS)
def test_an_image_alone_gives_what_it_gives_in_a_batch(name: str) -> None:
    pool, x = stir(make(name)).eval(), make_tokens()
    torch.testing.assert_close(pool(x[1:2]), pool(x)[1:2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", POOLINGS)
def test_training_on_one_image_works(name: str) -> None:
    pool = stir(make(name, seeds=(0, 1)))
    pooled = pool(make_tokens(1))
    assert pooled.shape == (1, 2, pool.out_dim)
    if list(pool.parameters()):
        pooled.square().sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in pool.parameters())


@pytest.mark.parametrize("name", POOLINGS)
def test_the_registry_agrees_with_the_pooling(name: str) -> None:
    pool = build_pooling(name, dim=96, grid=(7, 7), **POOLINGS[name].defaults)
    assert pool.name == name and set(pool.inputs) <= {"patch", "prefix", "mean"}
    default, named = (
        dict(build_pooling(name, dim=96, grid=(7, 7), **s).named_parameters()) for s in ({}, pool.defaults)
    )
    assert {key: value.shape for key, value in default.items()} == {key: value.shape for key, value in named.items()}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", POOLINGS)
def test_stacked_cells_equal_each_alone(name: str, training: bool) -> None:
    """Outputs, gradients, statistics and initial weights: what a seed gives alone it gives in a stack."""
    x, seeds = make_tokens(), (5, 0, 5)
    stacked = make(name, seeds=seeds).train(training)
    together = stacked(x)
    cotangent = torch.randn(together.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    if together.requires_grad:
        (together * cotangent).sum().backward()
    for cell, seed in enumerate(seeds):
        alone = make(name, seeds=(seed,)).train(training)
        one = alone(x)
        torch.testing.assert_close(together[:, cell], one[:, 0], rtol=1e-10, atol=1e-10)
        if one.requires_grad:
            (one * cotangent[:, cell : cell + 1]).sum().backward()
        for ours, theirs in zip(stacked.parameters(), alone.parameters(), strict=True):
            assert torch.equal(ours[cell], theirs[0])
            assert (ours.grad is None) == (theirs.grad is None)
            if ours.grad is not None:
                torch.testing.assert_close(ours.grad[cell], theirs.grad[0], rtol=1e-10, atol=1e-10)
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(stacked.state_dict()[key][cell], value[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ATTENTIVE)
def test_cells_of_different_seeds_start_different(name: str) -> None:
    pool, constant = make(name, seeds=(0, 1)), {"esimpool"}
    assert any(not torch.equal(value[0], value[1]) for value in pool.parameters()) == (name not in constant)


UNIFORM = 3**-0.5
"""Standard deviation of a uniform distribution within ±1."""


@pytest.mark.parametrize(
    ("name", "parameter", "std"),
    [
        ("ep", "queries", 0.02), ("ep", "value", UNIFORM * DIM**-0.5),
        ("abmilp", "qkv_weight", UNIFORM * DIM**-0.5), ("abmilp", "score0_weight", UNIFORM * DIM**-0.5),
        ("simpool", "k_weight", UNIFORM * DIM**-0.5), ("esimpool", "norm_weight", 0),
        ("clip", "position", DIM**-0.5), ("clip", "qkv_weight", DIM**-0.5), ("clip", "qkv_bias", 0),
        ("clip", "proj_weight", UNIFORM * DIM**-0.5), ("siglip", "latent", 0.8796 * DIM**-0.5),
        ("siglip", "kv_weight", UNIFORM * DIM**-0.5), ("siglip", "fc2_weight", UNIFORM * (4 * DIM) ** -0.5),
        ("aim", "query", 0.02), ("aim", "value", UNIFORM * DIM**-0.5), ("cbam", "fc1_weight", UNIFORM * DIM**-0.5),
        ("cbam", "fc2_weight", UNIFORM * 6**-0.5), ("cbam", "conv_weight", UNIFORM * 98**-0.5),
        ("coca", "query_bank", 1), ("coca", "kv_weight", UNIFORM * DIM**-0.5),
        ("coca", "proj_weight", UNIFORM * 512**-0.5),
        ("cait", "query", 0.02), ("cait", "k_weight", UNIFORM * DIM**-0.5), ("cait", "scale1", 0),
        ("dinovit", "qkv_weight", UNIFORM * DIM**-0.5), ("dinovit", "fc1_weight", UNIFORM * DIM**-0.5),
        ("jepa", "query", 0.02), ("jepa", "kv_weight", 0.02), ("jepa", "fc1_weight", 0.02), ("jepa", "q_bias", 0),
        ("jepa", "proj_weight", 0.02 * 2**-0.5), ("jepa", "fc2_weight", 0.02 * 2**-0.5),
        ("dolg", "conv1_weight", (2 / DIM) ** 0.5), ("dolg", "conv2_weight", 2**0.5),
        ("dolg", "conv1_bias", UNIFORM * DIM**-0.5), ("cae", "query", 0), ("cae", "q_weight", UNIFORM * DIM**-0.5),
    ],
)  # fmt: skip
def test_initial_weights_have_the_published_deviation(name: str, parameter: str, std: float) -> None:
    drawn = make(name, seeds=tuple(range(12))).get_parameter(parameter)
    center = {"esimpool": 1, "cait": 1e-5 if std == 0 else 0}.get(name, 0)
    assert abs(drawn.mean() - center) <= 5 * std / drawn.numel() ** 0.5 + 1e-9
    if std:  # five standard errors of the sample deviation of a normal distribution, the widest of them
        assert abs(drawn.std() / std - 1) < 5 / sqrt(2 * drawn.numel())
    else:
        assert drawn.unique().numel() == 1


@pytest.mark.parametrize("name", ATTENTIVE)
def test_attention_is_a_map_over_tokens_for_each_cell(name: str) -> None:
    x, plain, stacked = make_tokens(), stir(make(name)), stir(make(name, seeds=(0, 1, 2)))
    maps, alone = stacked.attention(x), plain.attention(x)
    assert maps.shape == (3, 3, alone.shape[1], 6) and alone.shape == (3, alone.shape[1], 6)
    for found in (maps, alone):
        assert (found >= 0).all()
        sums = found.sum(-1)
        if name in SUMS_TO_ONE:
            torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-12)
        elif name in ("clip", "cait"):
            assert ((sums > 0) & (sums < 1)).all()


@pytest.mark.parametrize("name", ATTENTIVE)
def test_looking_at_attention_changes_nothing(name: str) -> None:
    pool = make(name, seeds=(0, 1)).train()
    before = {key: value.clone() for key, value in pool.state_dict().items()}
    pool.attention(make_tokens())
    assert all(torch.equal(before[key], value) for key, value in pool.state_dict().items())


@pytest.mark.parametrize("name", WITH_PREFIX)
def test_prefix_tokens_come_first_and_are_weighed_like_others(name: str) -> None:
    pool = stir(make(name, tokens="patch+prefix", seeds=(0, 1))).eval()
    assert pool.inputs == ("prefix", "patch")
    x = make_tokens(n_tokens=8)
    assert pool.attention(x).shape[-1] == 8
    other = x.clone()
    other[:, 1] *= -1
    assert not torch.isclose(pool(x), pool(other)).all()  # a prefix token is read
    same = build_pooling(name, dim=DIM, grid=GRID).inputs
    assert same == ("patch",)


@pytest.mark.parametrize("name", WITH_PREFIX)
def test_unknown_tokens_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"unknown setting tokens of {name} 'prefix'; known: patch.prefix, patch"):
        build_pooling(name, dim=DIM, grid=GRID, tokens="prefix")


@pytest.mark.parametrize("name", [name for name in ATTENTIVE if "heads" in POOLINGS[name].defaults and name != "coca"])
def test_heads_that_do_not_divide_the_width_are_refused(name: str) -> None:
    for heads in (10, 0, -8):
        expected = rf"{name} with heads={heads} on tokens 96 wide: heads must divide the width; give one of "
        with pytest.raises(InputError, match=expected):
            build_pooling(name, dim=96, grid=GRID, heads=heads)
    with pytest.raises(InputError, match="give one of 4, 6, 8, 12"):
        build_pooling(name, dim=96, grid=GRID, heads=10)


@pytest.mark.parametrize("name", [name for name in ATTENTIVE if "mlp_ratio" in POOLINGS[name].defaults])
def test_an_mlp_without_hidden_units_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} with mlp_ratio=0: expected 1 or more"):
        build_pooling(name, dim=96, grid=GRID, mlp_ratio=0)


@pytest.mark.parametrize("name", ATTENTIVE)
def test_bfloat16_products_give_the_float64_result_to_their_rounding(name: str) -> None:
    """Autocast rounds factors to 8 bits, 2^-9 relative: a few such roundings in a row stay below a percent or two.

    Tokens are given as bfloat16 to both, so that only the pooling's own rounding counts.
    """
    x, pool = make_tokens(n_images=8).bfloat16(), stir(make(name, seeds=(0, 1)))
    exact = pool(x.double())
    cotangent = torch.randn(exact.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (exact * cotangent).sum().backward()
    expected = {key: value.grad.clone() for key, value in pool.named_parameters() if value.grad is not None}
    pool.zero_grad()
    pool.float()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = pool(x)
    (rounded * cotangent).sum().backward()
    assert (rounded - exact).norm() <= 1e-2 * exact.norm()
    overall = sqrt(sum(float(gradient.norm()) ** 2 for gradient in expected.values()))
    for key, gradient in expected.items():
        found = pool.get_parameter(key).grad
        assert found.dtype == torch.float32
        assert (found - gradient).norm() <= BFLOAT16_GRADIENT.get(name, 2e-2) * max(
            float(gradient.norm()), 0.1 * overall
        ), key


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ATTENTIVE)
def test_the_gpu_gives_what_the_cpu_gives(name: str) -> None:
    x, pool = make_tokens(n_images=8), stir(make(name, seeds=(0, 1)))
    state = {key: value.clone() for key, value in pool.state_dict().items()}
    exact = pool(x)
    pool.load_state_dict(state)
    pool.cuda()
    torch.testing.assert_close(pool(x.cuda()).cpu(), exact, rtol=1e-10, atol=1e-10)
    pool.load_state_dict(state)
    pool.float()
    with torch.autocast("cuda", torch.bfloat16):
        rounded = pool(x.cuda().bfloat16())
    rounded.sum().backward()
    assert (rounded.cpu() - exact).norm() <= 3e-2 * exact.norm()


STATE = {"cls_token": torch.zeros(1, 4, 8), "v.weight": torch.zeros(4, 8)}


def make_ep(**changes: Any) -> Any:
    return build_pooling("ep", dim=8, grid=(2, 2), queries=4, d_out=2, **changes)


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


def test_reference_weights_go_to_every_cell_and_statistics_may_be_left_out(golden: Path) -> None:
    vectors = load_file(golden / "heads" / "aim.safetensors")
    parameters, buffers = (
        {k.split("/")[1]: v for k, v in vectors.items() if k.startswith(s)} for s in ("param", "buffer/")
    )
    pool = build_pooling("aim", dim=96, grid=(7, 7), cells=2)
    pool.load_reference(parameters)
    assert torch.equal(pool.running_var, torch.ones(2, 96))
    pool.load_reference(parameters | buffers)
    for cell in range(2):
        assert torch.equal(pool.query[cell], parameters["cls_token"][0])
        assert torch.equal(pool.running_var[cell], buffers["bn.running_var"])
