"""Rounded numbers in a network for the length of a block, and the numbers behind them, which are trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tailcut.compression.rate.lattices import TrainedTensor
from tailcut.errors import ArgumentError
from tailcut.running import in_process_group


class RoundedParameters:
    """The numbers of a network as one flat vector, and the parameters that compute with rounded ones.

    Args:
        trained: the tensors.

    Attributes:
        numbers: the numbers behind the rounding, (numbers,), within a block of `kept()`; None outside.
    """

    def __init__(self, trained: Sequence[TrainedTensor]) -> None:
        self._trained = trained
        self._counts = [tensor.count for tensor in trained]
        self.numbers: Tensor | None = None
        self._earlier: list[_EarlierGradient] = []

    @contextmanager
    def kept(self) -> Iterator[Tensor]:
        """Give the numbers, (numbers,), and after the block the parameters their values and gradients back.

        Gradients of the block are added to those from before, unless these are set to zero within it.

        Raises:
            ArgumentError: the block is within another.
        """
        if self.numbers is not None:
            raise ArgumentError("rounded() is open already: it cannot be nested")
        parameters = [tensor.parameter for tensor in self._trained]
        values = [parameter.detach().clone() for parameter in parameters]
        self.numbers = self._flat(values)
        try:  # from here on: an interrupt while the numbers are rounded must not leave them so
            for parameter in parameters:
                if parameter.grad is not None:
                    self._earlier.append(_EarlierGradient(parameter, parameter.grad))
            yield self.numbers
        finally:
            with torch.no_grad():
                for parameter, value in zip(parameters, values, strict=True):
                    parameter.copy_(value)
                for gradient in self._earlier:
                    gradient.restore()
            self._earlier.clear()
            self.numbers = None

    def round(self, step_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Write the numbers, rounded to these steps, into the network; within `kept()`.

        Args:
            step_sizes: of each tensor, (tensors,).

        Returns:
            What the numbers were changed by, (numbers,); for each tensor 1 if a number of it is not 0, (tensors,).
        """
        if self.numbers is None:
            raise RuntimeError("there are no numbers to round")
        with torch.no_grad():
            sizes = self.spread(step_sizes)
            rounded = torch.round(self.numbers / sizes) * sizes
            parts = self.split(rounded)
            for tensor, part in zip(self._trained, parts, strict=True):
                tensor.parameter.copy_(tensor.values(part))
            return rounded - self.numbers, torch.stack([(part != 0).any() for part in parts]).to(self.numbers)

    def gradients(self) -> list[Tensor]:
        """Return the gradients of the numbers, (count,) for each tensor, by those of the parameters; 0 without one.

        Within `kept()` these are the gradients of the block alone.

        Raises:
            ArgumentError: one of several processes adds the gradients of blocks: those before may not be averaged yet.
        """
        for gradient in self._earlier:
            gradient.settle()
        if _is_one_of_several() and any(gradient.is_added_to() for gradient in self._earlier):
            raise ArgumentError(
                "the gradients of several blocks of rounded() add up, while several processes train together: those "
                "from before a block are not averaged over the processes, whose networks would drift apart; open one "
                "block around all batches of a step, and call zero_grad() before it"
            )
        return [
            parameter.new_zeros(tensor.count) if parameter.grad is None else tensor.numbers(parameter.grad)
            for tensor, parameter in ((tensor, tensor.parameter) for tensor in self._trained)
        ]

    def add_gradients(self, gradients: Tensor) -> None:
        """Add gradients of the numbers, (numbers,), to those of the parameters, but for parameters that want none."""
        for tensor, part in zip(self._trained, self.split(gradients), strict=True):
            parameter = tensor.parameter
            if not parameter.requires_grad:  # frozen since
                continue
            added = tensor.values(part).to(parameter.dtype)  # the numbers of all have the widest type
            parameter.grad = added if parameter.grad is None else parameter.grad.add_(added)

    def spread(self, values: Tensor) -> Tensor:
        """Return what each number's tensor has, (numbers,), of values of the tensors, (tensors,). Differentiable."""
        pairs = zip(values, self._counts, strict=True)
        return torch.cat([value.expand(count) for value, count in pairs])

    def split(self, numbers: Tensor) -> tuple[Tensor, ...]:
        """Return the numbers of each tensor, views of (numbers,).

        Raises:
            ArgumentError: the network has more or fewer numbers than it had.
        """
        if len(numbers) != sum(self._counts):
            raise ArgumentError(
                f"the network has {len(numbers):,} numbers to round, and had {sum(self._counts):,} when RateLoss "
                "was made: coefficients must keep their number, so cut them before, not in the same training"
            )
        return torch.split(numbers, self._counts)

    def log_sizes(self) -> Tensor:
        """Return the base-2 logarithms of the root mean squares of the numbers behind the rounding, (tensors,)."""
        numbers = self.numbers
        if numbers is None:
            numbers = self._flat([tensor.parameter.detach() for tensor in self._trained])
        sizes = [part.square().mean().sqrt() for part in self.split(numbers)]
        return torch.stack(sizes).clamp(min=torch.finfo(torch.float32).tiny).log2()

    def _flat(self, values: Sequence[Tensor]) -> Tensor:
        return torch.cat([tensor.numbers(value) for tensor, value in zip(self._trained, values, strict=True)])


class _EarlierGradient:
    """A gradient from before a block, for which zeros stand in until its end; forgotten where they are set to zero.

    Loops may call `zero_grad` within the block, as Lightning's does just before the backward.

    Args:
        parameter: whose it is (is given the zeros).
        gradient: of it until here.
    """

    def __init__(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        self._parameter, self._is_settled = parameter, False
        self._gradient: Tensor | None = gradient
        self._zeros = torch.zeros_like(gradient)
        self._version = self._zeros._version
        parameter.grad = self._zeros
        self._hook = parameter.register_hook(self.settle) if parameter.requires_grad else None

    def settle(self, _: object = None) -> None:
        """Forget it if the zeros are not as they were, before the first gradient of the block is added to them."""
        if not self._is_settled and not self._is_untouched():
            self._gradient = None
        self._is_settled = True

    def is_added_to(self) -> bool:
        """Whether it is not 0, and the block has a gradient of its own; once settled."""
        return self._gradient is not None and not self._is_untouched() and bool(self._gradient.any())

    def restore(self) -> None:
        """Add it to the parameter's gradient, if it was not forgotten (changes that)."""
        self.settle()
        if self._hook is not None:
            self._hook.remove()
        if self._gradient is None:
            return
        if self._parameter.grad is None or self._is_untouched():
            self._parameter.grad = self._gradient
        else:
            self._parameter.grad.add_(self._gradient)

    def _is_untouched(self) -> bool:
        return self._parameter.grad is self._zeros and self._zeros._version == self._version


def _is_one_of_several() -> bool:
    return in_process_group() and torch.distributed.get_world_size() > 1
