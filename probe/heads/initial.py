"""Initial weights of one cell, drawn from its own generator."""

import torch
from torch import Generator, Tensor


def uniform_initial(*shape: int, fan_in: int, generator: Generator | None) -> Tensor:
    """Draw a weight or bias as torch's nn.Linear and nn.Conv2d do: uniform within ±1/sqrt(fan_in)."""
    return torch.empty(*shape).uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)


def normal_initial(*shape: int, std: float, generator: Generator | None) -> Tensor:
    """Draw from a normal distribution around 0.

    This equals `trunc_normal_(std=0.02)`, whose cut at ±2 is a hundred standard deviations away.
    """
    return torch.empty(*shape).normal_(0, std, generator=generator)


def truncated_initial(*shape: int, std: float, generator: Generator | None) -> Tensor:
    """Draw from a normal distribution around 0 of that deviation, cut at two deviations.

    Values beyond the cut are drawn again. `trunc_normal_` of torch draws others in some versions.
    """
    drawn = normal_initial(*shape, std=std, generator=generator)
    while not drawn.is_meta and (beyond := drawn.abs() > 2 * std).any():
        drawn = torch.where(beyond, normal_initial(*shape, std=std, generator=generator), drawn)
    return drawn


def linear_initial(
    name: str, n_out: int, n_in: int, generator: Generator | None, *, bias: bool = True
) -> dict[str, Tensor]:
    """Draw `NAME_weight` (n_out, n_in) and `NAME_bias` (n_out,) as torch's nn.Linear does."""
    drawn = {f"{name}_weight": uniform_initial(n_out, n_in, fan_in=n_in, generator=generator)}
    if bias:
        drawn[f"{name}_bias"] = uniform_initial(n_out, fan_in=n_in, generator=generator)
    return drawn


def norm_initial(name: str, width: int) -> dict[str, Tensor]:
    """Return `NAME_weight`, ones, and `NAME_bias`, zeros, both (width,)."""
    return {f"{name}_weight": torch.ones(width), f"{name}_bias": torch.zeros(width)}


def mlp_initial(width: int, mlp_ratio: int, generator: Generator | None) -> dict[str, Tensor]:
    """Draw `fc1` (width·mlp_ratio, width) and `fc2` (width, width·mlp_ratio) as torch's nn.Linear does."""
    hidden = width * mlp_ratio
    return linear_initial("fc1", hidden, width, generator) | linear_initial("fc2", width, hidden, generator)
