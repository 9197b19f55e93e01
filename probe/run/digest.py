"""A digest of tensors and plain values. A file that stores its digest can be checked for changes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from xxhash import xxh3_128


def value_digest(value: Any) -> str:
    """Return a digest of tensors, numbers and texts in lists and dicts. The order of dict keys does not matter."""
    digest = xxh3_128()
    _update(digest, value)
    return digest.hexdigest()


def _update(digest: xxh3_128, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        digest.update(f"dict {len(value)}\n".encode())
        for key in sorted(value):
            _update(digest, key)
            _update(digest, value[key])
    elif isinstance(value, Sequence) and not isinstance(value, str):
        digest.update(f"list {len(value)}\n".encode())
        for each in value:
            _update(digest, each)
    else:
        digest.update(f"{value!r}\n".encode())
