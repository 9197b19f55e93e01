"""The head against torch's own modules."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tokenprobe.probe.heads import Head, build_pooling
from tokenprobe.probe.heads import head as head_module
from tokenprobe.probe.heads.linear import LinearPooling, LinearSettings

CLOSE: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}


class PlainPooling(nn.Module):
    """EP for one cell, from the paper's formula."""

    def __init__(self, queries: Tensor, value: Tensor) -> None:
        super().__init__()
        self.queries, self.value = nn.Parameter(queries), nn.Parameter(value)

    def forward(self, x: Tensor) -> Tensor:
        attention = torch.einsum("qd,bnd->bqn", self.queries, x).div(x.shape[2] ** 0.5).softmax(2)
        projected = torch.einsum("od,bnd->bno", self.value, x).unflatten(2, (len(self.queries), -1))
        return torch.einsum("bqn,bnqw->bqw", attention, projected).flatten(1)


def make_tokens(seed: int, n_images: int = 16) -> Tensor:
    scale = torch.linspace(0.1, 20, 12, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_images, 4, 12, dtype=torch.float64, generator=generator) * scale + scale.flip(0)


def make_head(cells: int | None = None, generators: Any = None) -> Head:
    pooling = build_pooling("ep", dim=12, grid=(2, 2), queries=3, cells=cells, generators=generators)
    return Head(pooling, 5, generators).double()


def plain_of(head: Head, cell: int = 0) -> Any:
    """The protocol's head in torch's own modules, with the weights of one cell."""
    plain = nn.Sequential(
        PlainPooling(*(head.pooling.get_parameter(name)[cell].detach().clone() for name in ("queries", "value"))),
        nn.BatchNorm1d(12, affine=False, eps=1e-6),
        nn.Linear(12, 5),
    ).double()
    plain[2].load_state_dict({"weight": head.weight[cell], "bias": head.bias[cell]})
    return plain


def test_equals_torchs_modules_in_training_and_evaluation() -> None:
    head = make_head()
    plain = plain_of(head)
    for step in range(3):
        x = make_tokens(step)
        torch.testing.assert_close(head(x), plain(x), **CLOSE)
        torch.testing.assert_close(head.running_mean[0], plain[1].running_mean, **CLOSE)
        torch.testing.assert_close(head.running_var[0], plain[1].running_var, **CLOSE)
    x = make_tokens(9)
    before = head.running_mean.clone(), head.running_var.clone()
    torch.testing.assert_close(head.eval()(x), plain.eval()(x), **CLOSE)
    assert torch.equal(head.running_mean, before[0]) and torch.equal(head.running_var, before[1])


def test_gradients_equal_torchs_modules() -> None:
    head = make_head()
    plain = plain_of(head)
    labels = torch.arange(16) % 5
    nn.functional.cross_entropy(head(make_tokens(0)), labels).backward()
    nn.functional.cross_entropy(plain(make_tokens(0)), labels).backward()
    for ours, theirs in (
        (head.weight, plain[2].weight),
        (head.bias, plain[2].bias),
        (head.pooling.get_parameter("queries"), plain[0].queries),
        (head.pooling.get_parameter("value"), plain[0].value),
    ):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad[0], theirs.grad, **CLOSE)


def test_stacked_cells_equal_each_alone_with_their_own_statistics() -> None:
    stacked = make_head(3, [torch.Generator().manual_seed(seed) for seed in range(3)])
    alone = [make_head(None, [torch.Generator().manual_seed(seed)]) for seed in range(3)]
    for training in (True, True, False):
        x = make_tokens(int(training))
        logits = stacked.train(training)(x)
        assert logits.shape == (16, 3, 5)
        for cell, one in enumerate(alone):
            torch.testing.assert_close(logits[:, cell], one.train(training)(x), **CLOSE)
            for name, value in one.state_dict().items():
                torch.testing.assert_close(stacked.state_dict()[name][cell], value[0], **CLOSE)


def test_cells_that_share_features_have_their_own_classifiers_and_the_same_statistics() -> None:
    head = Head(build_pooling("linear", dim=12, grid=(2, 2), cells=3), 5).double()
    plain = nn.BatchNorm1d(12, affine=False, eps=1e-6).double()
    for training in (True, True, False):
        x = make_tokens(int(training))
        normed, logits = plain.train(training)(x.mean(1)), head.train(training)(x)
        for cell in range(3):
            expected = nn.functional.linear(normed, head.weight[cell], head.bias[cell])
            torch.testing.assert_close(logits[:, cell], expected, **CLOSE)
            torch.testing.assert_close(head.running_mean[cell], plain.running_mean, **CLOSE)
            torch.testing.assert_close(head.running_var[cell], plain.running_var, **CLOSE)


class Seen(LinearPooling):
    """A pooling that notes the tokens it gets."""

    def pool(self, x_BND: Tensor) -> Tensor:
        self.seen = x_BND
        return super().pool(x_BND)


def test_stored_tokens_are_pooled_in_the_weights_precision_and_under_autocast_as_they_are() -> None:
    pooling = Seen(LinearSettings(), dim=12, grid=(2, 2))
    head, x = Head(pooling, 5), make_tokens(0)
    assert torch.equal(head(x.half()), head(x.half().float())) and pooling.seen.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        head(x.bfloat16())
    assert pooling.seen.dtype == torch.bfloat16


def test_a_constant_feature_is_normed_to_zero_by_the_published_eps() -> None:
    head = Head(build_pooling("linear", dim=2, grid=(1, 1)), 1).double()
    x = torch.tensor([[[5.0, 0.001]], [[5.0, -0.001]]], dtype=torch.float64)
    expected = head.bias[0] + head.weight[0, :, 1] * 0.001 / (1e-6 + 1e-6) ** 0.5
    torch.testing.assert_close(head(x)[0], expected, **CLOSE)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_the_classifier_starts_within_torchs_bound(name: str) -> None:
    values = getattr(Head(build_pooling("linear", dim=64, grid=(1, 1), cells=2), 500), name)
    assert 0.12 < values.abs().max() <= 64**-0.5
    assert abs(values.mean()) < 4 * values.std() / values.numel() ** 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_that_autocast_rounded_are_normed_as_in_full_precision(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """What a GPU does, on the CPU: logits and gradients are bit-equal to those of a BatchNorm in float32.

    The running statistics are its own to the last bit but one: the CPU's kernel sums in another order.
    """
    found, statistics = [], []
    for rounds in (False, True):
        monkeypatch.setattr(head_module, "rounds", lambda _, rounds=rounds: rounds)
        head, x = (
            make_head(2, [torch.Generator().manual_seed(seed) for seed in (0, 1)]).float(),
            make_tokens(0).to(dtype),
        )
        with torch.autocast("cpu", dtype):
            logits = head(x)
            scored = head.eval()(x)
        logits.float().square().sum().backward()
        gradients = [parameter.grad for parameter in head.parameters()]
        found.append([logits.detach(), scored, *gradients])
        statistics.append([head.running_mean, head.running_var])
    assert all(torch.equal(in_full, rounded) for in_full, rounded in zip(*found, strict=True))
    torch.testing.assert_close(*statistics, rtol=3e-7, atol=1e-7)
