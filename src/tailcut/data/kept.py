"""Images of a data set that stay in memory once they are read."""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor


class KeptTensors(dict[int, Tensor]):
    """Tensors by position, as many as fit.

    Attributes:
        num_bytes: of all of them.
    """

    def __init__(self, items: Iterable[tuple[int, Tensor]] = ()) -> None:
        super().__init__(items)
        self.num_bytes = sum(tensor.nbytes for tensor in self.values())

    def find(self, position: int, make: Callable[[int], Tensor], max_bytes: int) -> Tensor:
        """Return the tensor of a position, made where it is not kept, and then kept if all have at most `max_bytes`."""
        if position in self:
            return self[position]
        made = make(position)
        if self.num_bytes + made.nbytes <= max_bytes:
            self[position] = made
            self.num_bytes += made.nbytes
        return made

    def renumbered(self, positions: Sequence[int]) -> "KeptTensors":
        """Return those of some positions, which are counted anew."""
        return KeptTensors((new, self[old]) for new, old in enumerate(positions) if old in self)
