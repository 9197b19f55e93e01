"""The parts of the folded mechanism."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tokenprobe.probe.heads import folded
from tokenprobe.probe.heads.folded import attend, centred, fold_keys, project_blocks, token_rstd

CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n_queries", [1, 3])
def test_folded_queries_give_the_logits_of_projected_keys(n_queries: int) -> None:
    q_HBO, key_HOD, x_BND = random(2, n_queries, 8), random(2, 8, 5, seed=1), random(3, 7, 5, seed=2)
    u = fold_keys(q_HBO, key_HOD, 4)
    assert u.shape == (n_queries, 2, 4, 5)
    keys = torch.einsum("hod,bno->bhnd", key_HOD.transpose(1, 2), x_BND).unflatten(3, (4, 2))
    queries = q_HBO.unflatten(2, (4, 2)).transpose(0, 1).expand(3, -1, -1, -1)
    expected = torch.einsum("bhmk,bhnmk->bhmn", queries, keys) / 2**0.5
    torch.testing.assert_close(folded.logits(x_BND, u), expected, **CLOSE)


def test_blocks_of_the_value_map_act_on_their_own_aggregate() -> None:
    z_BHMD, value_HOD = random(3, 2, 4, 5), random(2, 8, 5, seed=1)
    found = project_blocks(z_BHMD, value_HOD)
    assert found.shape == (2, 3, 8)
    for h in range(2):
        for m in range(4):
            expected = z_BHMD[:, h, m] @ value_HOD[h, 2 * m : 2 * m + 2].T
            torch.testing.assert_close(found[h, :, 2 * m : 2 * m + 2], expected, **CLOSE)


@pytest.mark.parametrize("n_queries", [1, 3])
def test_attending_over_normed_tokens_needs_only_their_deviations(n_queries: int) -> None:
    x, u = 3 * random(3, 7, 5) + 1, random(n_queries, 2, 4, 5, seed=1)
    normed = torch.nn.functional.layer_norm(x, (5,), eps=1e-3)
    rstd = token_rstd(x, 1e-3)
    torch.testing.assert_close(folded.logits(x, u, rstd), folded.logits(normed, u), **CLOSE)
    torch.testing.assert_close(attend(x, u, rstd), attend(normed, u), **CLOSE)


def test_token_rstd_is_precise_in_float32_for_tokens_with_outlier_channels() -> None:
    x = random(4, 50, 768)
    x[..., 3] += 60
    x[..., 100] -= 25
    exact = (x.var(-1, correction=0) + 1e-6).rsqrt()
    torch.testing.assert_close(token_rstd(x.float(), 1e-6).double(), exact, rtol=1e-6, atol=0)
    rounded = x.bfloat16()
    found = token_rstd(rounded, 1e-6)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), token_rstd(rounded.double(), 1e-6), rtol=1e-5, atol=0)


def test_token_rstd_takes_the_mean_of_half_precision_tokens_in_float32() -> None:
    x = (random(4, 50, 768) + 3).bfloat16()  # a mean rounded to bfloat16 would shift the variance by percents
    torch.testing.assert_close(token_rstd(x, 1e-6).double(), token_rstd(x.double(), 1e-6), rtol=1e-4, atol=0)


def test_the_softmax_is_never_below_float32() -> None:
    scores = (5 * random(2, 1, 3, 50)).bfloat16()
    found, powers = folded.softmax(scores), scores.double().exp()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), powers / powers.sum(-1, keepdim=True), rtol=1e-5, atol=0)
    assert folded.softmax(scores.double()).dtype == torch.float64


def test_a_token_of_equal_channels_has_no_variance() -> None:
    """In float32, norm and mean alone would give a variance of −0.004, or 0.004, for some of these."""
    x = torch.linspace(1, 300, 500)[:, None].expand(500, 768)[None]
    rstd = token_rstd(x, 1e-6)
    assert rstd.isfinite().all() and (rstd <= 1e3 * (1 + 1e-6)).all()


def test_centring_subtracts_the_mean_in_float32() -> None:
    found = centred(torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.bfloat16))
    assert found.dtype == torch.float32 and found.tolist() == [[-2, -1, 3]]
