"""Accuracies against counting by hand."""

import numpy as np
import pytest
import torch

from tokenprobe.probe.metrics import AccuracyCounter


@pytest.mark.parametrize("n_classes", [2, 5, 6, 11])
def test_counts_over_batches_equal_sorting_by_hand(n_classes: int) -> None:
    rng = np.random.default_rng(n_classes)
    logits, labels = rng.normal(size=(50, 3, n_classes)), rng.integers(0, n_classes, 50)
    counter = AccuracyCounter()
    for part in (slice(0, 20), slice(20, 21), slice(21, 50)):
        counter.add(torch.from_numpy(logits[part]), torch.from_numpy(labels[part]))
    ranks = [[sum(row > row[y]) for row in cells] for cells, y in zip(logits, labels, strict=True)]
    assert counter.top1() == [sum(of[cell] < 1 for of in ranks) / 50 for cell in range(3)]
    assert counter.top5() == [sum(of[cell] < 5 for of in ranks) / 50 for cell in range(3)]
    if n_classes <= 5:
        assert counter.top5() == [1, 1, 1]


def test_a_cell_that_diverged_is_counted_apart() -> None:
    logits = torch.eye(6)[:, None].repeat(1, 2, 1)
    logits[:, 1] = torch.nan
    counter = AccuracyCounter()
    counter.add(logits, torch.arange(6))
    assert counter.top1()[0] == counter.top5()[0] == 1
    assert counter.top1()[1] <= 1 / 6  # one guess for all images
