"""When parts of a step are made in one pass, and what an estimate of memory sees of it."""

import pytest
import torch

from tokenprobe.probe.planning.shadow import Shadows
from tokenprobe.probe.training import fused_step
from tokenprobe.probe.training.losses import cell_losses
from tokenprobe.probe.training.optim import LARS


def test_values_on_a_gpu_are_taken_where_triton_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    starts, capability = True, (8, 0)
    monkeypatch.setattr(fused_step, "starts", lambda: starts)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with Shadows(torch.device("cuda", 0)):
        single, double = torch.empty(2), torch.empty(2, dtype=torch.float64)
    assert fused_step.can_fuse(single) and not fused_step.can_fuse(double) and not fused_step.can_fuse(torch.empty(2))
    capability = (7, 5)
    assert not fused_step.can_fuse(single)
    starts, capability = False, (8, 0)
    assert not fused_step.can_fuse(single)


def test_an_estimate_sees_three_numbers_a_row_and_no_copy_of_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that the CPU-only engine of autograd knows; the operation is the same for all."""
    monkeypatch.setattr(fused_step, "can_fuse", lambda _: True)
    with Shadows(torch.device("cpu")) as shadows:
        logits = torch.empty(4, 7, 100, dtype=torch.float16).transpose(0, 1).requires_grad_()
        labels = torch.empty(7, dtype=torch.int64)
        before = shadows.now
        losses = cell_losses(logits, labels)
        assert shadows.now - before <= 3 * (4 * 4 * 7) + 3 * 8 * 7 * 4
        shadows.forget_peak()
        losses.sum().backward()
        assert shadows.peak - before < logits.nbytes


def test_an_estimate_sees_no_new_tensor_of_an_optimizers_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenprobe.probe.training.optim.can_fuse", lambda _: True)
    with Shadows(torch.device("cpu")) as shadows:
        parameter = torch.empty(4, 50, 20).requires_grad_()
        optimizer = LARS([parameter], torch.zeros(4))
        parameter.grad = torch.empty(4, 50, 20)
        before = shadows.now
        shadows.forget_peak()
        optimizer.step(torch.empty(4))
        assert shadows.peak - before < parameter.nbytes / 10
