"""Tensors without values that claim to be on a device: they show how much memory code allocates there.

Under `Shadows` every operation runs on the "meta" device, with shapes and types only. Its result claims to be on the
requested device, so autocast and the choice of kernels behave as on that device. Plain meta tensors do not suffice:
torch has no autocast for them. Temporary memory inside a kernel is not counted.

On a GPU the peak is the memory that torch's allocator takes (`arena.py`). On a CPU it is the memory of live tensors:
freed memory returns to the system.
"""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from .arena import Arena, Block

ATEN, META = torch.ops.aten, torch.device("meta")


class Shadow(Tensor):
    """A wrapper around a meta tensor that claims to be on `device`."""

    meta: Tensor

    @staticmethod
    def __new__(cls, meta: Tensor, device: torch.device) -> "Shadow":
        """Wrap a meta tensor."""
        shadow: Shadow = Tensor._make_wrapper_subclass(
            cls, meta.shape, meta.stride(), meta.storage_offset(), dtype=meta.dtype, device=device
        )
        shadow.meta = meta
        return shadow

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuse operations outside of `Shadows`."""
        raise RuntimeError(f"{func} on a tensor without values, outside of the Shadows it was made under")


class Shadows(TorchDispatchMode):
    """Makes every tensor a `Shadow`, and counts the bytes of live tensors.

    Operations that depend on values see zeros: a number read from a tensor is 0, and no element is nonzero. So
    initialisation that redraws until all values are in range ends.

    Attributes:
        now: bytes of live tensors.
    """

    def __init__(self, device: torch.device) -> None:
        """Count the memory of one device."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self._device, self._alive = device, dict[int, tuple[Arena, Block]]()
        self.forget_peak()

    @property
    def peak(self) -> int:
        """The most bytes taken at once since `forget_peak`."""
        return self._before + self._arena.reserved if self._device.type == "cuda" else self._most

    def forget_peak(self) -> None:
        """Measure a new peak from now on. On a GPU, later tensors get separate memory, like recorded work."""
        self._before = self._most = self.now
        self._arena = Arena()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation on the meta device. A tensor changed in place stays the same object."""
        if func is ATEN._local_scalar_dense.default:
            return 0
        if func is ATEN.nonzero.default:
            return self._cast(torch.empty(0, args[0].ndim, dtype=torch.int64, device=META))
        if func is ATEN.bincount.default:
            n_bins = max(1, *args[2:])  # zeros fall into the first bin
            return self._cast(torch.empty(n_bins, dtype=torch.int64, device=META))
        with self:
            found = func.decompose(*args, **kwargs or {})  # in inference mode, composite operations arrive undivided
        if found is not NotImplemented:
            return found
        taken: dict[int, Tensor] = {}

        def meta(tensor: Tensor) -> Tensor:
            under = tensor.meta if isinstance(tensor, Shadow) else tensor.to(META)
            taken[id(under)] = tensor
            return under

        args, kwargs = tree_map_only(Tensor, meta, (args, kwargs or {}))
        if "device" in kwargs:
            kwargs["device"] = META
        with torch.inference_mode(False):  # a view of an ordinary tensor must not be an inference tensor
            made = func(*args, **kwargs)
            return tree_map_only(Tensor, lambda t: taken[id(t)] if id(t) in taken else self._cast(t), made)

    def _cast(self, meta: Tensor) -> Shadow:
        storage = meta.untyped_storage()
        if storage._cdata not in self._alive:
            self._alive[storage._cdata] = self._arena, self._arena.take(storage.nbytes())
            self.now += storage.nbytes()
            self._most = max(self._most, self.now)
            weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        return Shadow(meta, self._device)

    def _free(self, storage: int, n_bytes: int) -> None:
        arena, block = self._alive.pop(storage)
        arena.give(block)
        self.now -= n_bytes
