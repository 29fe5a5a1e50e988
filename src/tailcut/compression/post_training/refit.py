"""Weights fitted again to the inputs that they get once the layers before them are rounded."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tailcut.compression.layer_inputs.multiplications import Multiplication, multiplications
from tailcut.compression.layer_inputs.weight_inputs import listening_before
from tailcut.compression.sensitivity.moments import DAMPING, by_group, has_norms, input_rows
from tailcut.transform import dct, idct

MAX_ROWS = 1 << 14
"""The most positions of a layer's input at which the two networks are compared."""

MAX_NUMBERS = 1 << 27
"""The most numbers in the inputs of all layers together at these."""

RIDGE = 1.0
"""Weight of the fit's wish to change nothing, times the numbers of a row over the positions."""

Round = Callable[[str, Tensor], Tensor]


class Refit:
    """Weights whose outputs, of inputs that rounding has spoiled, are nearest to those that the originals had.

    For the input x of a layer in the original network and y in the rounded one, the weight W becomes
    W (C_xy + r) (C_yy + r)^-1: the regression of W x on y, with C the second moments, and the ridge r, by which it is
    drawn towards W. What is fitted is rounded before the inputs of later layers are seen.

    Weights that several modules share, and layers with a forward of their own, are left as they are.

    Args:
        model: the original network, in evaluation mode.
        names: weights of its linear layers, attention and convolutions, of transposed ones those without groups.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        uses = Counter(map(id, dict(model.named_parameters(remove_duplicate=False)).values()))
        known = multiplications(model)
        self._names = [name for name in names if known[name].is_plain and uses[id(known[name].weight)] == 1]
        lengths = [known[name].groups * known[name].rows[0].numel() for name in self._names]
        self._most = min(MAX_ROWS, MAX_NUMBERS // max(1, sum(lengths)))
        self._has_norms = has_norms(model)
        self._rows: dict[str, list[Tensor]] = {}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Within the block, note the inputs that layers get in the original network."""
        self._rows.clear()
        known = multiplications(model)

        def note(name: str, x: Tensor) -> None:
            calls = self._rows.setdefault(name, [])
            calls.append(x.new_empty(0) if calls else self._sampled(name, known[name], x))

        with listening_before(model, self._names, note):
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
        layers, results = multiplications(rounded), multiplications(result)

        def fit(name: str, x: Tensor) -> None:
            wanted = self._rows.get(name, [])
            if name in seen or len(wanted) != 1:
                return
            seen.add(name)
            layer = layers[name]
            found = self._sampled(name, layer, x)
            if found.shape != wanted[0].shape or not bool(found.isfinite().all()):
                return
            centred = self._has_norms or layer.bias is not None
            weight = results[name].weight.detach()  # as in the original until here
            rows = results[name].rows
            before, after = (by_group(x, rows[0].numel()) for x in (wanted[0], found))
            results[name].set_rows(_refitted(rows, before, after, centred=centred))
            layer.weight.detach().copy_(round_weight(name, weight.reshape(-1)).reshape(weight.shape))

        with listening_before(rounded, self._names, fit):
            yield

    def _sampled(self, name: str, multiplied: Multiplication, x: Tensor) -> Tensor:
        """Return the input at positions that are the same in both networks, (positions, row)."""
        generator = torch.Generator().manual_seed(self._names.index(name))
        return input_rows(multiplied.convolution, multiplied.inputs(x), self._most, generator).float().cpu()


def _refitted(weight: Tensor, wanted: Tensor, found: Tensor, *, centred: bool) -> Tensor:
    """Return a layer's weight, fitted so that its outputs of `found` are those of `weight` for `wanted`.

    Args:
        weight: (out, in, kernel...).
        wanted: inputs in the original network, (groups, positions, row); the outputs are in such groups too.
        found: inputs in the rounded one.
        centred: whether something takes the means of the outputs away.
    """
    kernel = tuple(range(2, weight.ndim))
    rows = dct(weight.double().cpu(), kernel).flatten(1) if kernel else weight.double().cpu()
    rows = rows.unflatten(0, (len(found), -1))
    if centred:
        wanted, found = wanted - wanted.mean(1, keepdim=True), found - found.mean(1, keepdim=True)
    _, count, length = found.shape
    own, cross = (found.mT @ found).double() / count, (found.mT @ wanted).double() / count
    diagonal = own.diagonal(dim1=1, dim2=2)
    ridge = max(DAMPING, RIDGE * length / count) * diagonal.mean(1, keepdim=True) + 1e-12
    diagonal.add_(ridge)
    cross.diagonal(dim1=1, dim2=2).add_(ridge)
    fitted = torch.cholesky_solve(cross @ rows.mT, torch.linalg.cholesky(own)).mT.reshape(weight.shape)
    return (idct(fitted, kernel) if kernel else fitted).to(weight)
