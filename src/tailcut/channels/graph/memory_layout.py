"""Memory layout of a tensor's entries, for operations such as `as_strided` that address memory directly."""

from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

# The operations whose meaning depends on how their input lies in memory.
RESTRIDING = (torch.ops.aten.as_strided, torch.ops.aten.as_strided_)
# The operations that see the same numbers in the same order with other sizes.
RESHAPES = {
    *(torch.ops.aten.view, torch.ops.aten._unsafe_view, torch.ops.aten.reshape),
    torch.ops.aten._reshape_alias,
}


class Layout(NamedTuple):
    """Memory layout of a tensor: sizes, strides and offset, in elements."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, x: Tensor) -> Self:
        """Return the current layout of a tensor."""
        return cls(tuple(x.shape), tuple(x.stride()), int(x.storage_offset()))

    def is_like(self, other: "Layout") -> bool:
        """Return whether the entries of both lie at the same addresses; strides of axes of size 1 mean nothing."""
        if (self.sizes, self.offset) != (other.sizes, other.offset):
            return False
        pairs = zip(self.sizes, self.strides, other.strides, strict=True)
        return all(size == 1 or here == there for size, here, there in pairs)

    def places(self) -> np.ndarray:
        """Return the place of each entry in the storage, of the tensor's shape."""
        found = np.full((1,) * len(self.sizes), self.offset, dtype=np.int64)
        for axis, (size, stride) in enumerate(zip(self.sizes, self.strides, strict=True)):
            view = [1] * len(self.sizes)
            view[axis] = size
            found = found + stride * np.arange(size, dtype=np.int64).reshape(view)
        return found


def entries_at(before: Layout, after: Layout) -> np.ndarray | None:
    """Return, for each entry of a tensor, the index of the same entry in another tensor with the same storage.

    Args:
        before: of the tensor whose entries are known.
        after: of the other one.

    Returns:
        Places in the first tensor, counted in its order (C), of the second one's shape; None where one of them is
        none of the first tensor's.
    """
    old, new = before.places().ravel(), after.places()
    if not old.size:
        return None
    order = np.argsort(old, kind="stable")
    found: np.ndarray = order[np.searchsorted(old, new, sorter=order).clip(max=old.size - 1)]
    return found if np.array_equal(old[found], new) else None
