"""How a pooling is made; its initial weights, its prefix tokens, and its numbers on a GPU."""

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
