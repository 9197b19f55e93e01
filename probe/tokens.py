"""One batch of tokens, which all groups of a pass share."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class TokenBatch:
    """The arrays of one batch on the training device. What several heads need of them is made once.

    Attributes:
        arrays: by kind, in the stored dtype: "patch" (B, N, D), "prefix" (B, P, D), "mean" (B, D).
        labels: (B,) int64, or (B, C) ones and zeros where images have several.
    """

    def __init__(self, arrays: Mapping[str, Tensor], labels: Tensor) -> None:
        """Take the arrays; they are not copied."""
        self.arrays, self.labels = dict(arrays), labels
        self._joined: dict[tuple[tuple[str, ...], torch.dtype], Tensor] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def joined(self, kinds: Sequence[str], dtype: torch.dtype) -> Tensor:
        """Return arrays joined along the token axis, (B, N, D), converted; a mean is one token."""
        key = (tuple(kinds), dtype)
        if key not in self._joined:
            parts = [self.arrays[kind] if self.arrays[kind].ndim == 3 else self.arrays[kind][:, None] for kind in kinds]
            converted = [part.to(dtype) for part in parts]
            self._joined[key] = torch.cat(converted, dim=1) if len(converted) > 1 else converted[0]
        return self._joined[key]
