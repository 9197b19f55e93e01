"""Batches at one place: the same tokens as `TokenBatch.joined` makes, wherever groups find them."""

import pytest
import torch

from tokenprobe.probe.batches.token_batch import TokenBatch
from tokenprobe.probe.heads import rounding
from tokenprobe.probe.training.static_batch import StaticBatches

PATCH = ("patch",), torch.bfloat16
ALL = ("prefix", "mean", "patch"), torch.float32


def make_batch(seed: int, n_images: int = 5) -> TokenBatch:
    draw = torch.Generator().manual_seed(seed)
    arrays = {"patch": (n_images, 6, 4), "prefix": (n_images, 2, 4), "mean": (n_images, 4)}
    made = {kind: torch.randn(shape, generator=draw) for kind, shape in arrays.items()}
    labels = torch.randint(9, (n_images,), generator=draw)
    return TokenBatch({"patch": made["patch"].half(), "prefix": made["prefix"].half(), "mean": made["mean"]}, labels)


def test_tokens_are_those_of_the_batch_in_every_form() -> None:
    batches = StaticBatches()
    for seed in range(3):
        batch = make_batch(seed)
        for form in (PATCH, ALL):
            found = batches.load(batch, form)
            expected = batch.joined(*form)
            assert found.tokens.dtype == expected.dtype and torch.equal(found.tokens, expected)
            assert torch.equal(found.labels, batch.labels)
            assert found.tokens.data_ptr() != batch.joined(*form).data_ptr()


def test_every_batch_of_a_form_is_at_one_place() -> None:
    batches = StaticBatches()
    first = batches.place(make_batch(0), PATCH)
    places = [batches.load(make_batch(seed, n), PATCH) for seed, n in ((0, 5), (1, 3), (2, 5))]
    assert {(place.tokens.data_ptr(), place.labels.data_ptr()) for place in [first, *places]} == {
        (first.tokens.data_ptr(), first.labels.data_ptr())
    }
    assert [len(place.tokens) for place in places] == [5, 3, 5]
    assert batches.load(make_batch(0), ALL).tokens.data_ptr() != first.tokens.data_ptr()


def test_a_batch_is_brought_there_once() -> None:
    """Not again while it lives, even if someone has written there; after another batch, again."""
    batches, batch = StaticBatches(), make_batch(0)
    batches.load(batch, PATCH).tokens.zero_()
    assert not batches.load(batch, PATCH).tokens.any()
    batches.load(make_batch(1), PATCH)
    assert torch.equal(batches.load(batch, PATCH).tokens, batch.joined(*PATCH))
    del batch
    batch = make_batch(2)
    assert torch.equal(batches.load(batch, PATCH).tokens, batch.joined(*PATCH))


def test_a_larger_batch_gets_a_new_place_and_is_brought_there() -> None:
    batches, small, large = StaticBatches(), make_batch(0), make_batch(1, 7)
    before = batches.load(small, PATCH)
    kept = before.tokens.clone()
    found = batches.load(large, PATCH)
    assert torch.equal(found.tokens, large.joined(*PATCH)) and torch.equal(found.labels, large.labels)
    assert torch.equal(before.tokens, kept)
    assert torch.equal(batches.load(small, PATCH).tokens, small.joined(*PATCH))


def test_a_batch_is_brought_to_a_place_that_is_new_since() -> None:
    batches, small = StaticBatches(), make_batch(0)
    before = batches.load(small, PATCH)
    batches.place(make_batch(1, 7), PATCH)
    found = batches.load(small, PATCH)
    assert found.tokens.data_ptr() != before.tokens.data_ptr()
    assert torch.equal(found.tokens, small.joined(*PATCH)) and torch.equal(found.labels, small.labels)


def test_large_batches_are_brought_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "MOST_NUMBERS", 2 * 6 * 4 + 1)
    batch = make_batch(0)
    for form in (PATCH, ALL):
        assert torch.equal(StaticBatches().load(batch, form).tokens, batch.joined(*form))


def test_bytes_are_those_of_all_places() -> None:
    batches = StaticBatches()
    for form in (PATCH, ALL):
        batches.load(make_batch(0), form)
    assert batches.n_bytes == 5 * (6 * 4 * 2 + 8) + 5 * ((2 + 1 + 6) * 4 * 4 + 8)


def test_labels_may_be_several_an_image() -> None:
    batch = make_batch(0)
    batch.labels = torch.randint(2, (5, 9))
    assert torch.equal(StaticBatches().load(batch, PATCH).labels, batch.labels)
