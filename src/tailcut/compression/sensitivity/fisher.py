"""Fisher information of a network's numbers, from inputs without labels."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tailcut.arguments import check_positive, check_seed
from tailcut.compression.sensitivity.drawn_loss import Certainty, drawn_loss, features_of, squared_error
from tailcut.compression.sensitivity.moments import input_blocks
from tailcut.errors import ArgumentError, TailcutError, first_line
from tailcut.execution import fuse
from tailcut.format.encoder.sensitivity import Block, Sensitivity, block_of
from tailcut.format.network.tensors import NetworkTensors, current_tensors
from tailcut.model_inputs import Loader, ModelInputs, loader_inputs
from tailcut.printing import logged
from tailcut.running import evaluating, keeping_buffers
from tailcut.structure import check_module, running_eagerly
from tailcut.transform.exact import check_has_float64

GRADIENT_BATCH = 8
"""Inputs of one gradient. Labels are drawn from the network's own answers: gradients of inputs are independent."""

MAX_BLOCK = 8192
"""The most numbers of which a full matrix is kept: 8,192^2 numbers of 4 bytes are 256 MiB."""

PARTS = (
    f"Batches are taken apart along axis 0, {GRADIENT_BATCH} inputs at a time: give a batch axis to what has none, as "
    "a graph"
)

ROWS = 256
"""Gradients that are multiplied at a time."""

DAMPING = 0.03
"""Added to the diagonal of a full matrix, in parts of its mean over each tensor."""

Drawn = Callable[[object, torch.Generator], Tensor] | Literal["squared_error"]
Norm = nn.modules.batchnorm._NormBase
Result = TypeVar("Result")


@torch.inference_mode(False)
def measure_sensitivity(
    model: nn.Module,
    loader: Loader,
    *,
    num_gradients: int = 1000,
    loss: Drawn | None = None,
    seed: int = 0,
) -> Sensitivity:
    """Measure the Fisher information of every number of `model`, as it is in evaluation. Does not change the model.

    Args:
        model: a trained network, regularised or not.
        loader: batches of inputs, as the network takes them, from training data; repeated if they are few. A
            `DataLoader` will do, whose targets are not looked at. See `compress` for networks of several inputs.
        num_gradients: gradients to average, each of 8 inputs. A few hundred are enough for the steps of the tensors;
            for rounding with error feedback about as many as there are numbers are best.
        loss: (outputs, generator of random numbers) -> the loss of the outputs, summed over the inputs, for targets
            drawn from what the network itself believes. "squared_error": numbers, as those of a regression, with normal
            errors of a standard deviation of 1. None: classes along axis 1 by the softmax, of each pixel, or
            along the last axis, of each token, where a linear layer gives (batch, tokens, classes), or whole numbers
            (batch, tokens) do; where there is one channel only, normal noise. Of several outputs the one named `logits`
            counts, else all whose names begin or end so.
        seed: of the draws.

    Returns:
        For `tailcut.save(dtype="quantized", sensitivity=...)`. It has blocks for rounding with error feedback: of all
        coefficients up to 8,192, else of each tensor's up to that; and of plain linear layers and convolutions.

    Raises:
        ArgumentError: there are no inputs, they do not fit the network or are not finite, of several outputs
            none has logits in its name and `loss` is None, or the network has no parameters, or such as are not finite.
    """
    check_module("measure_sensitivity", model)
    check_has_float64("measure_sensitivity", model)
    check_positive("num_gradients", num_gradients)
    tensors = current_tensors(model)
    check_measurable(tensors)
    generator = torch.Generator().manual_seed(check_seed(seed))
    sampled, certainty = _function_of(loss), Certainty()
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    sums = _Sums(model, tensors)
    batches = list(_batches(loader, num_gradients))
    try:
        for parameter in wanted:
            parameter.requires_grad_(parameter.is_floating_point())
        with running_eagerly(model), evaluating(model), keeping_buffers(model), torch.enable_grad(), sums.following():
            are_features = () if sampled is not None else _outputs(partial(features_of, model), batches[0])
            # After that run: a forward may set attributes of its network, which a fused one takes for changes.
            forward = fuse(model) if tensors.coefficients else model
            for batch in logged(islice(cycle(batches), num_gradients), "gradients", num_gradients):
                with parametrize.cached():  # so that a norm runs with the very gains that it shows
                    outputs = _outputs(lambda inputs: inputs.run(forward), batch)
                if sampled is None:
                    drawn = drawn_loss(batch, outputs, generator, are_features=are_features, certainty=certainty)
                else:
                    drawn = sampled(outputs, generator)
                _check_loss(drawn)
                sums.add(drawn, batch.batch_size)
            blocks = list(input_blocks(model, batches, {other.name for other in tensors.others}, generator))
    finally:
        for parameter, required in wanted.items():
            parameter.requires_grad_(required)
    certainty.warn()
    found = sums.sensitivity()
    return replace(found, blocks=(*found.blocks, *blocks))


def _batches(loader: Loader, count: int) -> Iterator[ModelInputs]:
    """Yield at most `count` batches, of `GRADIENT_BATCH` inputs each or fewer."""
    is_empty = True
    parts = (part for batch in loader_inputs(loader) for part in batch.split(GRADIENT_BATCH))
    for part in islice(parts, count):
        is_empty = False
        yield part.map(lambda x: x.clone() if x.is_inference() else x)
    if is_empty:
        raise ArgumentError("the loader gave no batch: give some of the training data")


def check_measurable(tensors: NetworkTensors) -> None:
    """Raise `ArgumentError` unless there are parameters, all of them finite, and gradients by them can be had."""
    parameters = _parameters(tensors)
    if not parameters:
        raise ArgumentError("the network has no parameters of floating point: there is nothing to compress")
    for name, parameter in parameters:
        if parameter.is_meta or parameter.is_inference():
            how = "on the meta device" if parameter.is_meta else "under torch.inference_mode"
            raise ArgumentError(
                f"{name} was made {how}, so that it has no gradient: make or load the network elsewhere"
            )
        if not bool(parameter.isfinite().all()):
            raise ArgumentError(f"{name} has numbers that are not finite, which cannot be quantised")


def _parameters(tensors: NetworkTensors) -> list[tuple[str, Tensor]]:
    """Return the name and memory of all that has a gradient: coefficients first."""
    floats = [other for other in tensors.others if other.is_parameter and other.tensor.is_floating_point()]
    kept = [(entry.name, entry.parameter) for entry in tensors.coefficients]
    return kept + [(other.name, other.tensor) for other in floats]


def _outputs(run: Callable[[ModelInputs], Result], batch: ModelInputs) -> Result:
    """Run the network on a batch of inputs, which must fit it."""
    are_several = len(batch.tensors) > 1  # a mask among them may be infinite
    if any(bool((x.isnan() if are_several else ~x.isfinite()).any()) for x in batch.tensors):
        raise ArgumentError("the loader gave numbers that are not finite")
    try:
        return run(batch)
    except TailcutError:
        raise
    except Exception as error:
        hint = PARTS if batch.is_batch else "A batch has its inputs along axis 0 of each tensor"
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unexpected:
            hint = f"Leave {unexpected[1]!r} out of the loader's dicts: the network's forward has no such argument"
        kinds = ", ".join(dict.fromkeys(str(x.dtype).removeprefix("torch.") for x in batch.tensors))
        raise ArgumentError(
            f"the network cannot take inputs of shape {batch.shapes} and type {kinds}: {first_line(error)}. Of a batch "
            "that is a tuple the first part counts: give ((a, b), targets) to a network of two inputs, or a dict, "
            "whose tensors are given by name (one whose forward takes the dict itself needs a module around it)"
            + (f". {hint}" if are_several else "")
        ) from error


def _function_of(loss: Drawn | None) -> Callable[[object, torch.Generator], Tensor] | None:
    """Return the function of a loss, or None where the outputs themselves say what they are."""
    if isinstance(loss, str):
        if loss != "squared_error":
            raise ArgumentError(
                f'loss must be a function of (outputs, generator), "squared_error" or None, got {loss!r}'
            )
        return squared_error
    return loss


def _check_loss(drawn: object) -> None:
    if not isinstance(drawn, Tensor) or drawn.numel() != 1:
        got = f"a tensor of shape {tuple(drawn.shape)}" if isinstance(drawn, Tensor) else type(drawn).__name__
        raise ArgumentError(f"loss= must give one number, a tensor: the loss summed over the inputs; got {got}")
    if not drawn.requires_grad:
        raise ArgumentError(
            "the loss has no gradient: are the network's outputs whole numbers, detached, or made under torch.no_grad?"
        )
    if not bool(drawn.isfinite()):
        raise ArgumentError(f"the loss is {drawn.item()}: nothing can be measured by it; see to loss= and the inputs")


def _check_curvature(curvature: Mapping[str, float]) -> None:
    """Raise `ArgumentError` if a gradient was not finite: a loss may be where its gradient is not, as a root of 0."""
    name = next((name for name, value in curvature.items() if not math.isfinite(value)), None)
    if name is not None:
        raise ArgumentError(
            f"the gradient of the loss by {name} is not finite for some of the inputs: does the network or the loss "
            "take a root, a norm or a logarithm of 0, or divide by it?"
        )


class _Sums:
    """Squares of gradients of each tensor, and products within blocks of tensors."""

    def __init__(self, model: nn.Module, tensors: NetworkTensors) -> None:
        named = _parameters(tensors)
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.counts = {entry.name: entry.num_kept for entry in tensors.coefficients}
        self.norms = _norms(model)
        self.vectors: dict[str, tuple[Any, Any]] = {
            prefix: (norm.weight, norm.bias) for prefix, norm in self.norms.items()
        }
        self.rows = {
            other.name: _RowSquares(len(other.tensor))
            for other in tensors.others
            if other.is_parameter and other.tensor.ndim == 2 and other.tensor.numel()
        }
        self.squares: dict[str, float] = {}
        self.logs: dict[str, float] = {}
        self.blocks = [_Products({name: self.counts[name] for name in names}) for names in _block_names(self.counts)]
        self.num_inputs = 0

    @contextmanager
    def following(self) -> Iterator[None]:
        """Within the block, see the gains and shifts of each forward; those made of coefficients are new each time.

        The block is around `fuse`, too: it leaves modules that have hooks as they are.
        """

        def follow(prefix: str, norm: nn.Module, _: object) -> None:
            self.vectors[prefix] = (norm.weight, norm.bias)

        made = [prefix for prefix in self.norms if not {f"{prefix}weight", f"{prefix}bias"}.isdisjoint(self.counts)]
        hooks = [self.norms[prefix].register_forward_pre_hook(partial(follow, prefix)) for prefix in made]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def add(self, drawn: Tensor, num_inputs: int) -> None:
        """Add the gradients of one summed loss."""
        self.num_inputs += num_inputs
        found = {}
        norms = {prefix: vectors for prefix, vectors in self.vectors.items() if _are_learned(*vectors)}
        by_channel = [vector for vectors in norms.values() for vector in vectors]
        gradients = torch.autograd.grad(drawn, [*self.parameters, *by_channel], allow_unused=True)
        for name, gradient, parameter in zip(self.names, gradients, self.parameters, strict=False):
            whole = torch.zeros_like(parameter) if gradient is None else gradient.detach()
            whole = whole.to_dense() if whole.is_sparse else whole
            found[name] = whole[: self.counts[name]] if name in self.counts else whole
            _add_square(self.squares, name, found[name])
            if name in self.rows:
                self.rows[name].add(found[name])
        rest = gradients[len(self.parameters) :]
        for prefix, gain, shift in zip(norms, rest[::2], rest[1::2], strict=True):
            if gain is not None and shift is not None:
                self._add_statistics(prefix, self.norms[prefix], gain, shift)
        for block in self.blocks:
            block.add(torch.cat([found[name].reshape(-1) for name in block.sizes]))

    def _add_statistics(self, prefix: str, norm: Norm, gain: Tensor, shift: Tensor) -> None:
        """Add the gradients by running mean and variance, which torch does not give, from those by gain and shift."""
        variance = norm.running_var
        if variance is None:
            return
        spread = (variance + norm.eps).detach()
        weight = norm.weight.detach()
        by_variance = weight / (2 * spread) * gain
        _add_square(self.squares, f"{prefix}running_mean", weight / spread.sqrt() * shift)
        _add_square(self.squares, f"{prefix}running_var", by_variance)
        _add_square(self.logs, f"{prefix}running_var", by_variance * variance * math.log(2))

    def sensitivity(self) -> Sensitivity:
        """Return the sums, divided by the number of inputs."""
        curvature = {name: total / self.num_inputs for name, total in self.squares.items()}
        _check_curvature(curvature)
        logs = {name: total / self.num_inputs for name, total in self.logs.items()}
        blocks = tuple(block.made(self.num_inputs) for block in self.blocks)
        seen = {name: squares for name, squares in self.rows.items() if squares.num_seen}
        rows = {name: squares.smoothed() / self.num_inputs for name, squares in seen.items()}
        return Sensitivity(curvature, logs, blocks, rows)


class _RowSquares:
    """Mean squares of the gradients of each row of a matrix, (rows,)."""

    def __init__(self, count: int) -> None:
        self.total = torch.zeros(count, dtype=torch.float64, device="cpu")
        self.num_seen = 0

    def add(self, gradient: Tensor) -> None:
        """Add a gradient, (rows, columns)."""
        squares = gradient.double().square().mean(1).cpu()
        self.total += squares
        self.num_seen += int(squares.count_nonzero())

    def smoothed(self) -> Tensor:
        """Return the sums as if each row had been seen in one batch more.

        A row of an embedding that none of the inputs read may be read by others, about as seldom as that.
        """
        return self.total + self.total.sum() / self.num_seen


class _Products:
    """The sum of outer products of the gradients of some tensors."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes
        count = sum(sizes.values())
        self.total = torch.zeros(count, count, dtype=torch.float32, device="cpu")
        self.rows: list[Tensor] = []

    def add(self, gradient: Tensor) -> None:
        """Add a gradient, flat."""
        self.rows.append(gradient.detach().float().cpu())
        if len(self.rows) == ROWS:
            self._fold()

    def _fold(self) -> None:
        if self.rows:
            rows = torch.stack(self.rows)
            self.total.addmm_(rows.T, rows)
            self.rows.clear()

    def made(self, num_inputs: int) -> Block:
        """Return the block for rounding."""
        self._fold()
        matrix = self.total.double() / num_inputs
        diagonal = matrix.diagonal()
        least = 1e-12 * float(diagonal.max()) + 1e-30
        for part in diagonal.split(list(self.sizes.values())):
            part += DAMPING * part.mean() + least
        return block_of(tuple(self.sizes), matrix)


def _norms(model: nn.Module) -> dict[str, Norm]:
    """Return each norm with running statistics, gains and shifts, by the prefix of its names."""
    return {
        f"{name}." if name else "": module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.affine and module.track_running_stats
    }


def _are_learned(*vectors: Tensor | None) -> bool:
    """Return whether gains and shifts are there, and are parameters or computed from some."""
    return all(vector is not None and vector.requires_grad for vector in vectors)


def _block_names(counts: dict[str, int]) -> list[list[str]]:
    """Return the names of each block: all coefficients together where they are few, else tensor by tensor."""
    if sum(counts.values()) <= MAX_BLOCK:
        return [list(counts)] if counts else []
    return [[name] for name, count in counts.items() if count <= MAX_BLOCK]


def _add_square(sums: dict[str, float], name: str, gradient: Tensor) -> None:
    if gradient.numel():
        sums[name] = sums.get(name, 0.0) + float(gradient.double().square().mean())
