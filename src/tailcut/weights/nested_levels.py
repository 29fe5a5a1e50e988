"""Levels: a network that works with the first of its coefficients too. `NestedLevels` trains one.

A level has the first coefficients of each tensor, so many parts of those that the level above has.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, reduce

import torch
from torch import nn

from tailcut.arguments import check_seed, is_number
from tailcut.errors import ArgumentError
from tailcut.structure import check_module, without_views
from tailcut.weights.parametrization.truncated_tensors import truncated_tensors

MAX_LEVELS = 8
PARTS = 256
"""The count of a tensor in a level is so many of these parts of that in the level above, rounded up."""


def count_below(count: int, parts: int) -> int:
    """Return how many coefficients of a tensor the level below has; at least one of one or more."""
    return -(-count * parts // PARTS)


def parts_of(fractions: Sequence[float]) -> tuple[int, ...]:
    """Return the parts that each level has of the one above, from the lowest.

    Args:
        fractions: of all levels but the highest, the coefficients of a tensor that it has, as parts of all.

    Raises:
        ArgumentError: they do not rise from above 0 to below 1, or are too many or too close.
    """
    if not isinstance(fractions, Iterable) or isinstance(fractions, str):
        raise ArgumentError(f"levels must be a list of parts, such as (0.25, 0.5); got {fractions!r}")
    fractions = [float(one) if isinstance(one, torch.Tensor) and one.ndim == 0 else one for one in fractions]
    shown = ", ".join(f"{fraction!r}" for fraction in fractions)
    numbers = [float(fraction) for fraction in fractions if is_number(fraction) and 0 < fraction < 1]
    if not numbers or len(numbers) < len(fractions) or sorted(set(numbers)) != list(numbers):
        raise ArgumentError(f"levels must rise from above 0 to below 1, such as (0.25, 0.5); got {shown}")
    if len(numbers) >= MAX_LEVELS:
        raise ArgumentError(
            f"a file has at most {MAX_LEVELS} levels, the whole network one of them; got {len(numbers)} more"
        )
    above = [*numbers[1:], 1.0]
    parts = tuple(max(1, round(PARTS * low / high)) for low, high in zip(numbers, above, strict=True))
    if max(parts) >= PARTS:
        raise ArgumentError(f"levels must differ by one part in {PARTS} or more; got {shown}")
    return parts


def _first_of(count: int, gradient: torch.Tensor) -> torch.Tensor:
    """Return a gradient of a vector with zeros behind the first `count` numbers."""
    kept = torch.zeros_like(gradient)
    kept[:count] = gradient[:count]
    return kept


def count_in(level: int, count: int, parts: Sequence[int]) -> int:
    """Return how many coefficients a tensor with `count` in all has in a level, from 0."""
    return reduce(count_below, reversed(parts[level:]), count)


class NestedLevels:
    """Trains a truncated network so that the first of its coefficients are a network as well (nested dropout).

    In each step a level is drawn: all coefficients, or for each tensor the first part of them. Gradients go to these
    only. The network can then be saved with the same levels, so that a part of the file is a smaller network
    (`tailcut.save(..., levels=)`).

        nested = tailcut.NestedLevels(model, levels=(0.25, 0.5))
        for images, labels in batches:
            optimizer.zero_grad()
            with nested.drawn():
                cross_entropy(model(images), labels).backward()
            optimizer.step()

    Batch norm sees all levels in training; `save(..., loader=)` measures its statistics for each level.

    Args:
        model: a truncated network; a fused view of one does as well.
        levels: the coefficients that each smaller network has of every tensor, as parts of all, from the smallest.
        whole: how often all coefficients are drawn, 0..1; the smaller levels share the rest.
        seed: of the draws.

    Raises:
        ArgumentError: the network has no coefficients, or a number is out of range.

    Source:
        Rippel, Gelbart, Adams, "Learning Ordered Representations with Nested Dropout" (ICML 2014).
    """

    def __init__(self, model: nn.Module, levels: Sequence[float], *, whole: float = 0.5, seed: int = 0) -> None:
        check_module("NestedLevels", model)
        self._parts = parts_of(levels)
        if not 0 <= whole < 1:
            raise ArgumentError(f"whole must be from 0 to below 1, got {whole!r}")
        self._tensors = truncated_tensors(without_views(model))
        if not self._tensors:
            raise ArgumentError("levels need a truncated network: regularize it first")
        self.whole = whole
        self._generator = torch.Generator().manual_seed(check_seed(seed))

    @contextmanager
    def drawn(self) -> Iterator[int]:
        """Within the block the network has a level that was drawn (changes the model, and back). Gives its number."""
        # Of one type, so that a seed gives the same levels whatever the default is.
        draw = float(torch.rand((), generator=self._generator, device="cpu", dtype=torch.float32))
        num_smaller = len(self._parts)
        level = 1 + min(int((draw - self.whole) / (1 - self.whole) * num_smaller), num_smaller - 1)
        level = num_smaller + 1 if draw < self.whole else level
        with self.at(level):
            yield level

    @contextmanager
    def at(self, level: int) -> Iterator[None]:
        """Within the block the network is that of a level (changes the model, and back).

        Gradients of a `backward` within the block go to its coefficients only; those of others stay as they were.

        Args:
            level: from 1, the smallest; one more than there are smaller ones for the whole network.
        """
        if not 1 <= level <= len(self._parts) + 1:
            raise ArgumentError(f"level must be from 1 to {len(self._parts) + 1}, got {level!r}")
        tails = []
        for tensor in self._tensors:
            count = count_in(level - 1, tensor.num_kept, self._parts)
            tails.append((tensor.vector, count, tensor.vector.detach()[count:].clone()))
        with ExitStack() as hooks:
            for vector, count, _ in tails:
                if vector.requires_grad:
                    hooks.callback(vector.register_hook(partial(_first_of, count)).remove)
            with torch.no_grad():
                for vector, count, _ in tails:
                    vector[count:] = 0
            try:
                yield
            finally:
                with torch.no_grad():
                    for vector, count, tail in tails:
                        vector[count:] = tail

    def state_dict(self) -> dict[str, torch.Tensor]:
        """For checkpoints: how far the draws are."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Go on with the draws where `state_dict` was taken."""
        self._generator.set_state(state["generator"])
