"""The layers that heads read together: one, several joined along the channels, or several stacked along the tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError
from ...store.layout import parse_layers

STACK = "stack:"
MOST_SHOWN = 8


@dataclass(frozen=True)
class LayerSet:
    """Layers that heads read together.

    Attributes:
        indices: of the layers, ascending.
        stacked: whether their tokens stand side by side, L·N tokens D wide. If not, their channels are joined, N tokens
            L·D wide.
    """

    indices: tuple[int, ...]
    stacked: bool = False

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def n_stacked(self) -> int:
        """Layers whose tokens stand side by side; 1 if channels are joined."""
        return len(self.indices) if self.stacked else 1

    @property
    def text(self) -> str:
        """The layers as results and flags write them: "11", "8+9+10+11" or "stack:2+5+8+11"."""
        return STACK * self.stacked + "+".join(map(str, self.indices))

    @property
    def name(self) -> str:
        """The layers in the names of cells: "layer_11", "layer_08+09+10+11" or "layer_stack_02+05+08+11"."""
        return f"layer_{'stack_' * self.stacked}" + "+".join(f"{layer:02d}" for layer in self.indices)

    def put_together(self, of_layers: Sequence[Tensor]) -> Tensor:
        """Join or stack one array of every layer.

        Args:
            of_layers: one per layer, tokens (B, N, D) or vectors (B, D).

        Returns:
            (B, N, L·D) or (B, L·D) if joined; (B, L·N, D) or (B, L, D) if stacked, one layer after the other.
        """
        if len(of_layers) == 1:
            return of_layers[0]
        if self.stacked and of_layers[0].ndim == 2:
            return torch.stack(list(of_layers), dim=1)
        return torch.cat(list(of_layers), dim=1 if self.stacked else -1)


def abbreviated(layers: str) -> str:
    """Shorten the text of many layers for a narrow place: keep the first three and the last."""
    indices = layers.split("+")
    return layers if len(indices) <= MOST_SHOWN else "+".join([*indices[:3], "…", indices[-1]])


def parse_text(text: str) -> LayerSet:
    """Return the layers of a text that `LayerSet.text` made."""
    return LayerSet(tuple(map(int, text.removeprefix(STACK).split("+"))), text.startswith(STACK))


def parse_layer_sets(spec: str, stored: Sequence[int], depth: int) -> list[LayerSet]:
    """Read "all", "last4" or "0,5,8+9+10+11,stack:all" into sets of stored layers.

    Args:
        spec: parts separated by commas. 8+9 joins the channels of layers 8 and 9. stack:8+9, stack:last2 and stack:all
            put their tokens side by side.
        stored: indices of the layers in the store.
        depth: layers of the backbone; negative indices count from its end.

    Returns:
        Single layers first, then joined, then stacked ones, each once.

    Raises:
        InputError: the text has another form, a layer is not stored, or a set names a layer twice.
    """
    parts = spec.split(",")
    stacked = [part.removeprefix(STACK) for part in parts if part.startswith(STACK)]
    plain = [part for part in parts if not part.startswith(STACK)]
    single, joined = [part for part in plain if "+" not in part], [part for part in plain if "+" in part]
    sets = [LayerSet((layer,)) for layer in parse_layers(",".join(single), stored, depth)] if single else []
    sets += [LayerSet(_indices(part, part, stored, depth)) for part in joined]
    sets += [LayerSet(_indices(STACK + part, part, stored, depth), stacked=True) for part in stacked]
    return list(dict.fromkeys(sets))


def _indices(spec: str, part: str, stored: Sequence[int], depth: int) -> tuple[int, ...]:
    """Read "8+9+10+11", "last4" or "all" into the layers of one set."""
    listed = part.split("+")
    if len(listed) == 1 and (part == "all" or part.startswith("last")):
        return tuple(parse_layers(part, stored, depth))
    try:
        wanted = [int(index) for index in listed]
    except ValueError:
        raise InputError(f"layers {spec!r}: expected indices, such as {STACK * (spec != part)}8+9+10+11") from None
    layers = tuple(parse_layers(",".join(map(str, wanted)), stored, depth))
    if len(layers) < len(wanted):
        raise InputError(f"layers {spec!r} names a layer twice; give each one once")
    return layers
