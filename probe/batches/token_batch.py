"""One batch of a layer's tokens, shared by all groups of a pass."""

from collections.abc import Mapping

import torch
from torch import Tensor


class TokenBatch:
    """Tokens and labels of B images on the training device.

    Attributes:
        arrays: kind to tokens in the stored dtype: "patch" (B, N, D), "prefix" (B, P, D), "cls" (B, 1, D),
            "mean" (B, D), "embedding" (B, E). Stacked layers stand side by side along the second axis.
        labels: (B,) int64, or (B, C) for multi-label data, 1 where an image shows a class.
    """

    def __init__(self, arrays: Mapping[str, Tensor], labels: Tensor) -> None:
        """Take arrays and labels as they are."""
        self.arrays, self.labels = arrays, labels
        self._joined: dict[tuple[tuple[str, ...], torch.dtype], Tensor] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def joined(self, kinds: tuple[str, ...], dtype: torch.dtype) -> Tensor:
        """Join arrays along the token axis, (B, N', D), in `dtype`.

        The result is kept: groups that read the same arrays, or some of them, share one conversion.
        """
        key = kinds, dtype
        if key not in self._joined:
            if len(kinds) > 1:
                self._joined[key] = torch.cat([self.joined((kind,), dtype) for kind in kinds], dim=1)
            else:
                array = self.arrays[kinds[0]]
                self._joined[key] = (array if array.ndim == 3 else array[:, None]).to(dtype)
        return self._joined[key]
