"""How a pooling is made, and its duties, over the registry: stacking, any batch, grid and precision."""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenprobe.probe.heads import POOLINGS, Pooling, build_pooling
from tokenprobe.probe.heads.attentive import AttentivePooling
from tokenprobe.probe.heads.pooling import PoolingSettings

from .facts import KNOWN
from .kit import DIM

ATTENTIVE = [name for name in KNOWN if issubclass(POOLINGS[name], AttentivePooling)]
WITH_WEIGHTS = [name for name, facts in KNOWN.items() if facts.drawn is not None]
WITH_PREFIX = [name for name in ATTENTIVE if "tokens" in POOLINGS[name].defaults]
GRID = (3, 2)


def make_tokens(n_images: int = 3, n_tokens: int = 6, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Make tokens with the outlier channels of real ones."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_images, n_tokens, DIM, dtype=torch.float64, generator=generator)
    return (x * torch.linspace(0.2, 2, DIM).exp() + torch.linspace(0, 3, DIM)).to(dtype)


def make(name: str, *, seeds: tuple[int, ...] | None = None, **settings: Any) -> Any:
    """Build a pooling in float64: plain, or a cell for each seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds or (0,)]
    cells = len(seeds) if seeds else None
    settings = {"dim": DIM, "grid": GRID, **settings}
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


@dataclass(frozen=True)
class NotedSettings(PoolingSettings):
    rows: int = 2
    tokens: str = "patch"


class Noted(Pooling):
    """A pooling that notes how it is made."""

    name = "noted"
    settings = NotedSettings()

    def choose_inputs(self) -> tuple[str, ...]:
        self.made: list[Any] = ["inputs"]
        return (self.settings.tokens,)

    def set_up(self) -> None:
        self.made.append((self.settings, self.dim, self.grid, self.cells, self.inputs, self.out_dim))
        self.out_dim = 5

    def initial(self, generator: torch.Generator | None) -> dict[str, Tensor]:
        self.made.append(generator)
        return {"b": torch.randn(self.settings.rows, self.out_dim, generator=generator), "a": torch.zeros(1)}

    def make_buffers(self) -> None:
        self.made.append([name for name, _ in self.named_parameters()])
        self.keep_statistics(4)

    def pool(self, x_BND: Tensor) -> Tensor:
        return x_BND.mean(1)[:, None]


def test_a_pooling_is_checked_then_drawn_cell_by_cell_then_given_its_buffers() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    settings = NotedSettings(rows=6, tokens="prefix")
    pool = Noted(settings, dim=7, grid=GRID, cells=2, generators=generators)
    assert pool.made == ["inputs", (settings, 7, GRID, 2, ("prefix",), 7), *generators, ["b", "a"]]
    assert list(pool.state_dict()) == ["b", "a", "running_mean", "running_var"] and pool.out_dim == 5
    assert torch.equal(pool.get_buffer("running_mean"), torch.zeros(2, 4)) and torch.equal(
        pool.get_buffer("running_var"), torch.ones(2, 4)
    )
    for cell, seed in enumerate((3, 4)):
        assert torch.equal(
            pool.get_parameter("b")[cell], torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
        )


def test_without_generators_the_cells_are_drawn_in_turn_from_torchs_own() -> None:
    torch.manual_seed(0)
    stacked = Noted(NotedSettings(), dim=7, grid=GRID, cells=3).get_parameter("b")
    torch.manual_seed(0)
    assert torch.equal(stacked, torch.stack([torch.randn(2, 5) for _ in range(3)]))
    torch.manual_seed(0)
    assert torch.equal(Noted(NotedSettings(), dim=7, grid=GRID).get_parameter("b"), stacked[:1])


def test_a_pooling_without_settings_has_no_defaults() -> None:
    assert Noted.defaults == {"rows": 2, "tokens": "patch"}
    bare: Any = type("Bare", (Noted,), {"settings": PoolingSettings()})
    assert bare.defaults == {}


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


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", POOLINGS)
def test_a_cell_that_was_zeroed_gives_finite_vectors(name: str, training: bool) -> None:
    """As one that has diverged is: numbers that are not finite are slow on some processors."""
    pool, x = make(name, seeds=(0, 1)).train(training), make_tokens()
    with torch.no_grad():
        for value in pool.state_dict().values():
            value[1] = 0
    pooled = pool(x)
    assert pooled.isfinite().all()
    if pooled.requires_grad:
        pooled.square().sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in pool.parameters())


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


@pytest.mark.parametrize("name", KNOWN)
def test_cells_of_different_seeds_start_different(name: str) -> None:
    pool, starts = make(name, seeds=(0, 1)), KNOWN[name].starts
    differ = any(not torch.equal(value[0], value[1]) for value in pool.parameters())
    assert differ == any(std > 0 for _, std in starts.values()), (
        f"{name} draws its weights at random, or does not, unlike `starts` in its facts, which has {dict(starts)}: "
        "give the mean and standard deviation of each initial weight that is published"
    )


@pytest.mark.parametrize(
    ("name", "parameter", "mean", "std"),
    [(name, key, *of_key) for name, facts in KNOWN.items() for key, of_key in facts.starts.items()],
)
def test_initial_weights_have_the_published_deviation(name: str, parameter: str, mean: float, std: float) -> None:
    drawn = make(name, seeds=tuple(range(12))).get_parameter(parameter)
    assert abs(drawn.mean() - mean) <= 5 * std / drawn.numel() ** 0.5 + 1e-9
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
        if KNOWN[name].maps_sum == "one":
            torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-12)
        elif KNOWN[name].maps_sum == "below one":
            assert ((sums > 0) & (sums < 1)).all()
        else:
            assert KNOWN[name].maps_sum == "anything"


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
    assert build_pooling(name, dim=DIM, grid=GRID, tokens="patch").inputs == ("patch",)
    assert build_pooling(name, dim=DIM, grid=GRID).inputs == KNOWN[name].inputs


@pytest.mark.parametrize("name", WITH_WEIGHTS)
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
        assert name not in ATTENTIVE or pool.attention(x).dtype == torch.float32
    (rounded * cotangent).sum().backward()
    assert (rounded - exact).norm() <= 1e-2 * exact.norm()
    overall = sqrt(sum(float(gradient.norm()) ** 2 for gradient in expected.values()))
    for key, gradient in expected.items():
        found = pool.get_parameter(key).grad
        assert found.dtype == torch.float32
        largest = KNOWN[name].bfloat16_gradient * max(float(gradient.norm()), 0.1 * overall)
        assert (found - gradient).norm() <= largest, key


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", WITH_WEIGHTS)
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
