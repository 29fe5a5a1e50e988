"""Writes payloads of codecs 3 to 5, from SPEC.md, with whatever parameters they are given."""

from collections.abc import Sequence

from conformance.reference.quantized import WHOLE, Coder, Tensor


class Writer(Coder):
    """The encoder of codec 2 with the contexts of codec 3, 4 or 5."""

    def __init__(self, below: Coder | None = None, codec: int = 3) -> None:
        super().__init__(below, codec)
        self.low, self.written, self.length = 0, 0, 0

    def decide(self, bound: int, bit: int) -> int:
        if bit:
            self.low += bound
            self.range -= bound
        else:
            self.range = bound
        if self.low >= 2**32:
            self.low, self.written = self.low - 2**32, self.written + 1
        while self.range < 2**24:
            self.written, self.length = self.written * 256 + self.low // 2**24, self.length + 1
            self.low, self.range = self.low * 256 % 2**32, self.range * 256
        return bit

    def payload(self, tensors: Sequence[Tensor]) -> bytes:
        """Of tensors with their parameters and as many numbers as their count says.

        Of numbers that depend on those before them the ones that the states allow are left on the tensor.
        """
        for tensor in tensors:
            if tensor.is_whole:
                for number in tensor.numbers:
                    self.number(WHOLE, number - self.whole)
                    self.whole = number
            else:
                if tensor.known:
                    self.count(tensor, tensor.parameters[3])
                else:
                    self.parameters(tensor)
                    self.run_shifts(tensor)
                numbers = list(tensor.numbers)
                self.run(tensor)
                tensor.numbers = tensor.numbers if self.depends(tensor) else numbers
        self.low += 2**24 - 1
        if self.low >= 2**32:
            self.low, self.written = self.low - 2**32, self.written + 1
        return (self.written * 256 + self.low // 2**24).to_bytes(self.length + 1, "big")
