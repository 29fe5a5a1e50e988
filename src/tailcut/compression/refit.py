"""Weights fitted again to the inputs that they get once the layers before them are rounded."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tailcut.compression.moments import DAMPING, Layer, has_norms, input_rows
from tailcut.transform import dct, idct

MAX_ROWS = 1 << 14
"""The most positions of a layer's input at which the two networks are compared."""

MAX_NUMBERS = 1 << 27
"""The most numbers in the inputs of all layers together at these."""

RIDGE = 1.0
"""Weight of the fit's wish to change nothing, times the numbers of a row over the positions."""

FORWARDS = frozenset(kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))

Round = Callable[[str, Tensor], Tensor]


class Refit:
    """Weights whose outputs, of inputs that rounding has spoiled, are nearest to those that the originals had.

    For the input x of a layer in the original network and y in the rounded one, the weight W becomes
    W (C_xy + r) (C_yy + r)^-1: the regression of W x on y, with C the second moments, and the ridge r, by which it is
    drawn towards W. What is fitted is rounded before the inputs of later layers are seen.

    Weights that several modules share, and layers with a forward of their own, are left as they are.

    Args:
        model: the original network, in evaluation mode.
        names: weights of its linear layers and convolutions without groups.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        uses = Counter(map(id, dict(model.named_parameters(remove_duplicate=False)).values()))
        names = [name for name in names if type(_layer_of(model, name)).forward in FORWARDS]
        names = [name for name in names if uses[id(_layer_of(model, name).weight)] == 1]
        self._names = names
        lengths = [_layer_of(model, name).weight[0].numel() for name in names]
        self._most = min(MAX_ROWS, MAX_NUMBERS // max(1, sum(lengths)))
        self._has_norms = has_norms(model)
        self._rows: dict[str, list[Tensor]] = {}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Within the block, note the inputs that layers get in the original network."""
        self._rows.clear()

        def note(name: str, x: Tensor) -> None:
            calls = self._rows.setdefault(name, [])
            calls.append(x.new_empty(0) if calls else self._sampled(name, _layer_of(model, name), x))

        with self._listening(model, note):
            yield

    @contextmanager
    def fitting(self, rounded: nn.Module, result: nn.Module, round_weight: Round) -> Iterator[None]:
        """Within the block, fit each layer before it runs (changes both networks), if it ran once in the original.

        Args:
            rounded: runs within the block; it gets the fitted weights, rounded.
            result: gets the fitted weights.
            round_weight: (name, numbers, flat) -> the numbers that a file has for them, flat.
        """
        seen: set[str] = set()

        def fit(name: str, x: Tensor) -> None:
            wanted = self._rows.get(name, [])
            if name in seen or len(wanted) != 1:
                return
            seen.add(name)
            layer = _layer_of(rounded, name)
            found = self._sampled(name, layer, x)
            if found.shape != wanted[0].shape or not bool(found.isfinite().all()):
                return
            centred = self._has_norms or layer.bias is not None
            weight = _layer_of(result, name).weight.detach()  # as in the original until here
            weight.copy_(_refitted(weight, wanted[0], found, centred=centred))
            layer.weight.detach().copy_(round_weight(name, weight.reshape(-1)).reshape(weight.shape))

        with self._listening(rounded, fit):
            yield

    @contextmanager
    def _listening(self, model: nn.Module, listen: Callable[[str, Tensor], None]) -> Iterator[None]:
        with ExitStack() as stack:
            for name in self._names:
                stack.callback(before(_layer_of(model, name), name, listen).remove)
            yield

    def _sampled(self, name: str, layer: Layer, x: Tensor) -> Tensor:
        """Return the input at positions that are the same in both networks, (positions, row)."""
        generator = torch.Generator().manual_seed(self._names.index(name))
        return input_rows(layer, x, self._most, generator).float().cpu()


def _refitted(weight: Tensor, wanted: Tensor, found: Tensor, *, centred: bool) -> Tensor:
    """Return a layer's weight, fitted so that its outputs of `found` are those of `weight` for `wanted`.

    Args:
        weight: (out, in, kernel...).
        wanted: inputs in the original network, (positions, row).
        found: inputs in the rounded one.
        centred: whether something takes the means of the outputs away.
    """
    kernel = tuple(range(2, weight.ndim))
    rows = dct(weight.double().cpu(), kernel).flatten(1) if kernel else weight.double().cpu()
    if centred:
        wanted, found = wanted - wanted.mean(0), found - found.mean(0)
    count, length = found.shape
    own, cross = (found.T @ found).double() / count, (found.T @ wanted).double() / count
    ridge = max(DAMPING, RIDGE * length / count) * own.diagonal().mean() + 1e-12
    own.diagonal().add_(ridge)
    cross.diagonal().add_(ridge)
    fitted = torch.cholesky_solve(cross @ rows.T, torch.linalg.cholesky(own)).T.reshape(weight.shape)
    return (idct(fitted, kernel) if kernel else fitted).to(weight)


def _layer_of(model: nn.Module, name: str) -> Layer:
    return cast("Layer", model.get_submodule(name.rpartition(".")[0]))


def before(module: nn.Module, name: str, listen: Callable[[str, Tensor], None]) -> RemovableHandle:
    """Pass inputs of a module to a function before it runs, with its name; not empty ones, nor those given by name."""

    def hook(_: nn.Module, args: tuple[object, ...]) -> None:
        if args and isinstance(args[0], Tensor) and args[0].numel():
            listen(name, args[0])

    return module.register_forward_pre_hook(hook)
