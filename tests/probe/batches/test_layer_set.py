"""Sets of layers against lists written by hand, and tokens put together by indexing."""

import pytest
import torch

from tokenprobe.errors import InputError
from tokenprobe.probe.batches.layer_set import LayerSet, abbreviated, parse_layer_sets

STORED = [0, 2, 8, 9, 11]


@pytest.mark.parametrize(
    ("spec", "sets"),
    [
        ("all", [(0,), (2,), (8,), (9,), (11,)]),
        ("last2", [(9,), (11,)]),
        ("8+9+11", [(8, 9, 11)]),
        ("11+8", [(8, 11)]),
        ("-1+-4", [(8, 11)]),
        ("0,8+9,-1,9+11", [(0,), (11,), (8, 9), (9, 11)]),
        ("all,8+9", [(0,), (2,), (8,), (9,), (11,), (8, 9)]),
        ("8+9,9+8", [(8, 9)]),
    ],
)
def test_layers_are_single_or_joined(spec: str, sets: list[tuple[int, ...]]) -> None:
    assert parse_layer_sets(spec, STORED, depth=12) == [LayerSet(indices) for indices in sets]


@pytest.mark.parametrize(
    ("spec", "indices"),
    [
        ("stack:all", (0, 2, 8, 9, 11)),
        ("stack:last2", (9, 11)),
        ("stack:11+8", (8, 11)),
        ("stack:-1+-4", (8, 11)),
        ("stack:2", (2,)),
    ],
)
def test_layers_are_stacked(spec: str, indices: tuple[int, ...]) -> None:
    assert parse_layer_sets(spec, STORED, depth=12) == [LayerSet(indices, stacked=True)]


def test_stacked_layers_stand_beside_others() -> None:
    found = parse_layer_sets("stack:8+9,11,8+9,stack:9+8", STORED, depth=12)
    assert found == [LayerSet((11,)), LayerSet((8, 9)), LayerSet((8, 9), stacked=True)]
    assert [layers.text for layers in found] == ["11", "8+9", "stack:8+9"]
    assert [layers.name for layers in found] == ["layer_11", "layer_08+09", "layer_stack_08+09"]
    assert [layers.n_stacked for layers in found] == [1, 1, 2]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("8+10", "unknown layer of the store '10'; known: 0"),
        ("0,8+", r"layers '8\+': expected indices, such as 8\+9\+10\+11"),
        ("last4+2", r"layers 'last4\+2': expected indices"),
        ("0,8+9+8", r"layers '8\+9\+8' names a layer twice; give each one once"),
        ("11+-1", r"layers '11\+-1' names a layer twice"),
        ("", "layers '': expected all, lastN, or indices"),
        ("stack:", "layers 'stack:': expected indices, such as stack:8"),
        ("stack:8+8", r"layers 'stack:8\+8' names a layer twice"),
        ("stack:last7", "layers 'last7': the store has 5 layers"),
        ("stack:3", "unknown layer of the store '3'"),
    ],
)
def test_layers_that_cannot_be_put_together_are_refused(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_layer_sets(spec, STORED, depth=12)


def test_many_layers_are_shown_by_the_first_and_the_last() -> None:
    assert abbreviated("7") == "7" and abbreviated("0+1+2+3+4+5+6+11") == "0+1+2+3+4+5+6+11"
    assert abbreviated("+".join(map(str, range(70)))) == "0+1+2+…+69"
    assert abbreviated("stack:" + "+".join(map(str, range(70)))) == "stack:0+1+2+…+69"


def test_tokens_are_joined_along_channels_and_stacked_along_tokens() -> None:
    tokens = [torch.arange(24.0).view(2, 3, 4) + 100 * layer for layer in range(2)]
    joined, stacked = LayerSet((3, 5)).put_together(tokens), LayerSet((3, 5), stacked=True).put_together(tokens)
    assert joined.shape == (2, 3, 8) and stacked.shape == (2, 6, 4)
    for image in range(2):
        for token in range(3):
            assert joined[image, token].tolist() == [*tokens[0][image, token], *tokens[1][image, token]]
            for layer in range(2):
                assert stacked[image, 3 * layer + token].tolist() == tokens[layer][image, token].tolist()


def test_vectors_are_joined_to_a_longer_one_and_stacked_to_tokens() -> None:
    vectors = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])]
    assert LayerSet((3, 5)).put_together(vectors).tolist() == [[1, 2, 3, 4]]
    assert LayerSet((3, 5), stacked=True).put_together(vectors).tolist() == [[[1, 2], [3, 4]]]
