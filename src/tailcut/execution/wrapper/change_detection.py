"""Whether coefficients are still those that dense weights were made of. It is asked before every dense call."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tailcut.execution.layers.factorization import counts_changes, step_of
from tailcut.weights import TruncatedTensor

# Types of numpy's of the same size: it does not know all of torch's.
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Seen(NamedTuple):
    """One tensor's vector and mask, as they were; `bytes_of` reads the vector's memory as it is now."""

    parameters: dict[str, Any]
    vector: Tensor
    version: int
    pointer: int
    bytes_of: Callable[[], bytes] | None
    content: bytes
    buffers: dict[str, Any]
    dropped: Tensor
    dropped_version: int
    truncation: dict[str, Any]
    precision: str


class ChangeDetector:
    """Compares with the coefficients of the latest `note`, as `TruncatedWeight.state` would, at a fraction of its cost.

    Writes that torch does not count (through `.data`) are seen on the CPU, in long vectors by a sample.
    """

    def __init__(self, tensors: Sequence[TruncatedTensor]) -> None:
        self._places = [
            (tensor.holder._parameters, tensor.truncation._buffers, tensor.truncation.__dict__) for tensor in tensors
        ]
        self._seen: list[_Seen] | None = None

    def note(self) -> None:
        """The coefficients as they are now are those to compare with."""
        seen = [_look_at(*place) for place in self._places]
        known = [one for one in seen if one is not None]
        self._seen = known if len(known) == len(seen) else None

    def forget(self) -> None:
        """The coefficients count as changed from now on."""
        self._seen = None

    def is_same(self) -> bool:
        """Whether nothing changed since `note`; False where that cannot be told."""
        if self._seen is None:
            return False
        for one in self._seen:
            parameters, vector, version, pointer, bytes_of, content, buffers, dropped, times, settings, precision = one
            if (
                parameters["original"] is not vector
                or vector._version != version
                or vector.data_ptr() != pointer  # before its memory is read: it may have been given back
                or (bytes_of is not None and bytes_of() != content)
                or buffers["dropped"] is not dropped
                or dropped._version != times
                or settings["precision"] is not precision
            ):
                return False
        return True


def _look_at(parameters: dict[str, Any], buffers: dict[str, Any], truncation: dict[str, Any]) -> _Seen | None:
    vector, dropped = parameters["original"], buffers["dropped"]
    if vector is None or dropped is None or not counts_changes(vector, dropped):
        return None
    bytes_of = None
    if vector.device.type == "cpu":
        bytes_of = vector.detach().view(_WORDS[vector.element_size()])[:: step_of(vector)].numpy().tobytes
    content = b"" if bytes_of is None else bytes_of()
    coefficients = parameters, vector, vector._version, vector.data_ptr(), bytes_of, content
    return _Seen(*coefficients, buffers, dropped, dropped._version, truncation, truncation["precision"])
