"""Tensors without values, that say they are on a device: what code allocates there, found without running it.

Under `Shadows` every operation is done on the "meta" device, shapes and types alone, and its result claims to be on
the device asked for, so that autocast and the choice of kernels see what they would see there. Plain meta tensors do
not do: torch has no autocast for them. What a kernel takes for itself while it runs is not seen.

On a GPU the peak is what torch's allocator takes of it (`arena.py`). On a CPU it is what is alive: memory that is freed
goes back.
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
    """A tensor that claims to be on `device`, over one on the meta device."""

    meta: Tensor

    @staticmethod
    def __new__(cls, meta: Tensor, device: torch.device) -> "Shadow":
        """Cast the shadow of a meta tensor."""
        shadow: Shadow = Tensor._make_wrapper_subclass(
            cls, meta.shape, meta.stride(), meta.storage_offset(), dtype=meta.dtype, device=device
        )
        shadow.meta = meta
        return shadow

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuse what is done outside of `Shadows`."""
        raise RuntimeError(f"{func} on a tensor without values, outside of the Shadows it was made under")


class Shadows(TorchDispatchMode):
    """Makes every tensor a `Shadow`, and counts the bytes of those alive.

    What depends on values is as for zeros: a number read from a tensor is 0, no element is found to be nonzero. So
    initialisation that draws again until all values are in range ends.

    Attributes:
        now: bytes of the tensors that are alive.
    """

    def __init__(self, device: torch.device) -> None:
        """Count what would be on one device."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self._device, self._alive = device, dict[int, tuple[Arena, Block]]()
        self.forget_peak()

    @property
    def peak(self) -> int:
        """The most bytes that were taken at once since `forget_peak`."""
        return self._before + self._arena.reserved if self._device.type == "cuda" else self._most

    def forget_peak(self) -> None:
        """Look for a new peak from here on. On a GPU, new tensors have memory of their own, as recorded work has."""
        self._before = self._most = self.now
        self._arena = Arena()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do one operation on the meta device; what is changed in place stays the tensor it was."""
        if func is ATEN._local_scalar_dense.default:
            return 0
        if func is ATEN.nonzero.default:
            return self._cast(torch.empty(0, args[0].ndim, dtype=torch.int64, device=META))
        if func is ATEN.bincount.default:
            n_bins = max(1, *args[2:])  # zeros fall into the first
            return self._cast(torch.empty(n_bins, dtype=torch.int64, device=META))
        with self:
            found = func.decompose(*args, **kwargs or {})  # in inference mode operations come whole
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
        with torch.inference_mode(False):  # a view of an ordinary tensor is no inference tensor
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
