"""Scores against scikit-learn's, cell by cell."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score, top_k_accuracy_score

from tokenprobe.probe.training.metrics import AccuracyCounter, Counter, PrecisionCounter, make_counter

PARTS = [slice(0, 20), slice(20, 21), slice(21, 80)]


def count(counter: Counter, logits: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """Add (n, H, C) logits in three batches."""
    for part in PARTS:
        counter.add(torch.from_numpy(logits[part]), torch.from_numpy(labels[part]))
    return counter.scores()


@pytest.mark.parametrize("n_classes", [2, 5, 6, 11])
def test_accuracies_over_batches_equal_scikit_learns(n_classes: int) -> None:
    rng = np.random.default_rng(n_classes)
    labels = rng.integers(0, n_classes, 80)
    logits = rng.normal(size=(80, 3, n_classes)) + 2 * np.eye(n_classes)[labels][:, None] * [[0], [0.5], [1]]
    found = count(AccuracyCounter(n_classes), logits, labels)
    for cell, scores in enumerate(found):
        # with two classes scikit-learn wants the scores of the second
        given = logits[:, cell, 1] - logits[:, cell, 0] if n_classes == 2 else logits[:, cell]
        for k in (1, 5):
            if k < n_classes:
                assert scores[f"top{k}"] == top_k_accuracy_score(labels, given, k=k, labels=np.arange(n_classes))
        expected = balanced_accuracy_score(labels, logits[:, cell].argmax(1))
        assert scores["mean_class"] == pytest.approx(expected, rel=1e-12)
        assert set(scores) == {"top1", "top5", "mean_class", "unscored"} and scores["unscored"] == 0
        assert n_classes > 5 or scores["top5"] == 1
    assert found[0]["top1"] < found[1]["top1"] < found[2]["top1"]


def test_classes_without_images_are_left_out_of_the_mean() -> None:
    logits = torch.eye(4)[[0, 0, 2, 1]][:, None]  # guesses 0, 0, 2, 1
    counter = AccuracyCounter(4)
    counter.add(logits, torch.tensor([0, 1, 2, 1]))
    assert counter.scores() == [{"top1": 0.75, "top5": 1, "mean_class": (1 + 0.5 + 1) / 3, "unscored": 0}]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_images_with_a_logit_that_is_not_finite_are_errors_of_that_cell(value: float) -> None:
    logits = np.eye(6, dtype=np.float32)[np.arange(80) % 6][:, None].repeat(3, 1)
    logits[:, 1], logits[[0, 20, 45], 2, [5, 1, 2]] = value, value
    found = count(AccuracyCounter(6), logits, np.arange(80) % 6)
    assert found[0] == {"top1": 1, "top5": 1, "mean_class": 1, "unscored": 0}
    assert found[1] == {"top1": 0, "top5": 0, "mean_class": 0, "unscored": 80}
    of_class = np.bincount(np.arange(80) % 6) - np.bincount(np.array([0, 20, 45]) % 6, minlength=6)
    mean_class = pytest.approx((of_class / np.bincount(np.arange(80) % 6)).mean(), rel=1e-12)
    assert found[2] == {"top1": 77 / 80, "top5": 77 / 80, "mean_class": mean_class, "unscored": 3}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decimals", [8, 0])
def test_average_precision_equals_scikit_learns(dtype: type[np.floating[Any]], decimals: int) -> None:
    """Rounded to whole numbers, most images share their score with others."""
    rng = np.random.default_rng(0)
    labels = (rng.random((80, 7)) < np.linspace(0.02, 0.9, 7)).astype(np.uint8)
    labels[:, 3], labels[:, 5] = 0, 1  # a class that no image shows, and one that all show
    logits = (2 * rng.normal(size=(80, 3, 7)) + labels[:, None]).round(decimals).astype(dtype)
    found = count(PrecisionCounter(), logits, labels)
    shown = labels.any(0)
    assert shown.sum() == 6
    for cell, scores in enumerate(found):
        given = logits[:, cell].astype(np.float32)
        expected = average_precision_score(labels[:, shown], given[:, shown], average="macro")
        assert scores == {"map": pytest.approx(expected, rel=1e-12), "unscored": 0}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_images_with_a_logit_that_is_not_finite_are_ranked_last(value: float) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (80, 7))
    labels[[30, 31]] = 1
    logits = rng.normal(size=(80, 2, 7)) + 2 * labels[:, None]
    expected = count(PrecisionCounter(), logits, labels)
    logits[[30, 31], 1, [2, 4]] = value
    found = count(PrecisionCounter(), logits, labels)
    ranked = logits[:, 1].copy()
    ranked[[30, 31]] = -1e9
    last = average_precision_score(labels, ranked, average="macro")
    assert found == [expected[0], {"map": pytest.approx(last, rel=1e-6), "unscored": 2}]
    assert last < expected[1]["map"]


def test_what_is_kept_for_ranking_is_float32_on_the_cpu() -> None:
    """Two scores that float32 cannot tell apart share a rank."""
    logits = torch.tensor([[[1.0]], [[1.0 + 1e-12]]], dtype=torch.float64)
    counter = PrecisionCounter()
    counter.add(logits, torch.tensor([[1], [0]]))
    assert counter.scores() == [{"map": 0.5, "unscored": 0}]


def test_the_kind_of_labels_decides_what_is_counted() -> None:
    assert isinstance(make_counter(5, multi_label=True), PrecisionCounter)
    counter = make_counter(5, multi_label=False)
    assert count(counter, np.eye(5)[np.arange(80) % 5][:, None], np.arange(80) % 5)[0]["mean_class"] == 1


@pytest.mark.parametrize("n_classes", [3, 40_000])
def test_predicted_classes_are_kept_in_the_order_of_the_images(n_classes: int) -> None:
    logits = np.full((80, 2, n_classes), -10, np.float32)
    logits[..., :3] = np.random.default_rng(4).normal(size=(80, 2, 3))
    logits[7, 1, 2] = np.nan
    counter = AccuracyCounter(n_classes, keeps=True)
    count(counter, logits, np.arange(80) % 3)
    expected = logits.argmax(2).T
    expected[1, 7] = -1
    predicted = counter.predicted()
    assert predicted is not None and predicted.tolist() == expected.tolist()
    assert predicted.dtype == (torch.int16 if n_classes == 3 else torch.int32)


def test_a_class_without_a_vote_is_no_prediction() -> None:
    counter = make_counter(3, multi_label=False, votes=True, keeps=True)
    counter.add(torch.tensor([[[0.0, 0.0, 0.0]], [[0.0, 0.4, 0.1]]]), torch.tensor([0, 1]))
    predicted = counter.predicted()
    assert predicted is not None and predicted.tolist() == [[-1, 1]]
    assert counter.scores()[0]["top1"] == 0.5


def test_nothing_is_kept_unless_asked_for() -> None:
    for counter in (AccuracyCounter(3), make_counter(3, multi_label=True, keeps=True)):
        labels = (
            np.eye(3, dtype=np.int64)[np.arange(80) % 3] if isinstance(counter, PrecisionCounter) else np.arange(80) % 3
        )
        count(counter, np.zeros((80, 2, 3), np.float32), labels)
        assert counter.predicted() is None
