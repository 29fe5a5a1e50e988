"""Weights, biases and batch norm statistics that fit the rounding of the layers before them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.hooks import RemovableHandle

from tailcut.compression.layer_inputs.multiplications import is_packed_attention, multiplies
from tailcut.compression.layer_inputs.weight_inputs import before, listening_after_attention
from tailcut.compression.post_training.refit import Refit, Round
from tailcut.errors import ArgumentError
from tailcut.format.network.tensors import current_tensors
from tailcut.model_inputs import ModelInputs, joined
from tailcut.running import evaluating, keeping_buffers
from tailcut.structure import deepcopied
from tailcut.structure.module_types import is_linear

MAX_INPUTS = 1000
"""The most inputs on which a network and its rounded copy are compared."""

MAX_NUMBERS = 1 << 23
"""The most numbers in all of these: they pass the network at once."""

LEAST_RATIO = 1 / 4
"""Variances are scaled by this at least, and by its inverse at most."""

Norm = nn.modules.batchnorm._NormBase
Moments = tuple[Tensor, Tensor]


class CoarseStepError(ArgumentError):
    """The rounded network has numbers that are not finite: a finer step is needed."""


class Original:
    """A trained network and what passes its layers, with which rounded copies of it are compared.

    Args:
        model: in evaluation mode; it is not changed, and must not be from here on.
        inputs: batches of training inputs, the same for it and for all copies, so that what they lack of the training
            data cancels.
        refit: of the weights that are fitted. None leaves all as they are.
    """

    def __init__(self, model: nn.Module, inputs: Sequence[ModelInputs], refit: Refit | None = None) -> None:
        self._model, self._refit = model, refit
        self._wanted: dict[str, Moments] = {}
        self._batch: ModelInputs | None = None
        if refit is None and not any(map(_movable, model.modules())):
            return
        self._batch = _joined(inputs)
        found: dict[str, list[Moments]] = {}
        with ExitStack() as stack, torch.no_grad(), evaluating(model), keeping_buffers(model):
            stack.enter_context(_listening(model, lambda name, x: found.setdefault(name, []).append(_moments(x))))
            if refit is not None:
                stack.enter_context(refit.watching(model))
            self._batch.run(model)
        shared, modules = _shared(model), dict(model.named_modules())
        once = {name: moments[0] for name, moments in found.items() if len(moments) == 1}
        self._wanted = {
            name: moments
            for name, moments in once.items()
            if shared.isdisjoint(x.data_ptr() for x in _movable(modules[name]))
        }

    def corrected(self, rounded: Mapping[str, Tensor], round_weight: Round | None = None) -> nn.Module:
        """Return a copy of the network whose numbers fit its weights when these are rounded.

        Layer after layer, in the order in which they run: weights are fitted to the inputs that they get then, the bias
        of a linear layer or convolution loses what the mean of its outputs differs by from that in the original, the
        running mean of a norm gains what the mean of its inputs does, and its variance is scaled as theirs is. Layers
        that run more than once, and biases that several layers share, are left as they are.

        Args:
            rounded: name -> numbers of the rounded network, flat; coefficients under the plain name of their tensor.
            round_weight: rounds weights that are fitted anew, see `Refit`.

        Raises:
            CoarseStepError: the rounded network has outputs of a layer, or inputs of a norm, that are not finite.
        """
        result = deepcopied(self._model)
        if self._batch is None:
            return result
        trial = deepcopied(self._model)
        write_numbers(trial, rounded)
        _copy_movable(self._model, trial)  # biases and statistics begin as in the original, not rounded
        with ExitStack() as stack, torch.no_grad(), evaluating(trial):
            if self._refit is not None and round_weight is not None:
                stack.enter_context(self._refit.fitting(trial, result, round_weight))
            stack.enter_context(_moving(trial, self._wanted))
            self._batch.run(trial)
        _copy_movable(trial, result)
        return result


def write_numbers(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Fill tensors of a network with numbers (changes the model).

    Args:
        model: in evaluation mode.
        values: name -> numbers, flat; coefficients under the plain name of their tensor.
    """
    tensors = current_tensors(model)
    targets = {entry.name: entry.parameter.detach()[: entry.num_kept] for entry in tensors.coefficients}
    targets |= {other.name: other.tensor.detach() for other in tensors.others}
    for name, value in values.items():
        targets[name].copy_(value.reshape(targets[name].shape))


def _joined(inputs: Sequence[ModelInputs]) -> ModelInputs:
    """Join the inputs that pass at once to one batch: of the shape that most inputs have, as texts differ in length."""
    alike: list[list[ModelInputs]] = []
    for batch in inputs:
        group = next((group for group in alike if batch.is_like(group[0])), None)
        if group is None and batch.batch_size:
            alike.append([batch])
        elif group is not None:
            group.append(batch)
    if not alike:
        raise ArgumentError("the loader gave no batch: give some of the training data")
    group = max(alike, key=lambda batches: sum(batch.batch_size for batch in batches))
    numbers = sum(x.numel() for x in group[0].tensors) // group[0].batch_size
    left = min(MAX_INPUTS, max(1, MAX_NUMBERS // max(1, numbers)))
    found: list[ModelInputs] = []
    for batch in group:
        if left > 0:
            found.append(batch.first(left))
            left -= found[-1].batch_size
    return joined(found)


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, Norm) and module.running_mean is not None and module.running_var is not None


def _with_batch(module: nn.Module, x: Tensor) -> Tensor:
    """Return the input or output of a layer as (batch, channels, ...); a view, of one image (channels, ...) too."""
    if isinstance(module, _InstanceNorm):
        is_batched = x.ndim > module._get_no_batch_dim()
    else:
        is_batched = not isinstance(module, _ConvNd) or x.ndim > len(module.kernel_size) + 1
    return x if is_batched else x[None]


def _shared(model: nn.Module) -> set[int]:
    """Return where the numbers lie that several modules would move: what fits one of them does not fit the others."""
    owners = Counter(x.data_ptr() for module in model.modules() for x in _movable(module))
    return {place for place, num in owners.items() if num > 1}


def _bias_of(module: nn.Module) -> Tensor | None:
    """Return the bias of a linear layer or convolution, or of attention's first product; None for all else."""
    is_attention = is_packed_attention(module)
    if not is_attention and not multiplies(module):
        return None
    bias = module._parameters.get("in_proj_bias" if is_attention else "bias")
    return bias.detach() if isinstance(bias, nn.Parameter) else None


def _movable(module: nn.Module) -> list[Tensor]:
    if _has_statistics(module):
        return [module.get_buffer("running_mean"), module.get_buffer("running_var")]
    bias = _bias_of(module)
    return [] if bias is None else [bias]


def _copy_movable(source: nn.Module, target: nn.Module) -> None:
    for one, other in zip(source.modules(), target.modules(), strict=True):
        for value, place in zip(_movable(one), _movable(other), strict=True):
            place.copy_(value)


def _moments(x: Tensor) -> Moments:
    """Return mean and variance per channel, float64; of float32, in which they are summed, to about 1e-7."""
    x = x.detach() if x.dtype == torch.float64 else x.detach().float()
    x = x if x.ndim > 1 else x[None, None]
    variance, mean = torch.var_mean(x, [axis for axis in range(x.ndim) if axis != 1], correction=0)
    return mean.double(), variance.double()


@contextmanager
def _listening(model: nn.Module, listen: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Within the block, pass the inputs of norms and the outputs of layers with a bias to a function."""
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if _has_statistics(module):
                stack.callback(before(module, name, partial(_listen_to_norm, listen, module)).remove)
            elif is_packed_attention(module):
                stack.enter_context(listening_after_attention(module, name, _channels_first(listen)))
            elif _bias_of(module) is not None:
                stack.callback(_after(module, name, listen).remove)
        yield


def _listen_to_norm(listen: Callable[[str, Tensor], None], module: nn.Module, name: str, x: Tensor) -> None:
    listen(name, _with_batch(module, x))


def _channels_first(listen: Callable[[str, Tensor], None]) -> Callable[[str, Tensor], None]:
    return lambda name, y: listen(name, y.movedim(-1, 1))


def _after(module: nn.Module, name: str, listen: Callable[[str, Tensor], None]) -> RemovableHandle:
    def hook(_: nn.Module, args: Any, output: Any) -> None:
        # A layer of a class of its own may give more than a tensor. Channels of a linear layer are last.
        if isinstance(output, Tensor) and output.ndim > 1 and output.numel():
            listen(name, output.movedim(-1, 1) if is_linear(module) else _with_batch(module, output))

    return module.register_forward_hook(hook)


@contextmanager
def _moving(model: nn.Module, wanted: Mapping[str, Moments]) -> Iterator[None]:
    """While the network runs, move each bias and each norm's statistics before what follows sees them."""
    modules = dict(model.named_modules())

    def move(name: str, x: Tensor) -> None:
        if name not in wanted:
            return
        module, (mean, variance) = modules[name], wanted[name]
        found_mean, found_variance = _moments(x)
        if not bool(found_mean.isfinite().all()):
            raise CoarseStepError(
                f"rounded so coarsely, the network has no finite numbers at {name}: ask for more bytes, or a finer step"
            )
        if _has_statistics(module):
            running_mean, running_var = _movable(module)
            running_mean += (found_mean - mean).to(running_mean)
            epsilon = module.eps if isinstance(module, Norm) else 0.0
            ratio = ((found_variance + epsilon) / (variance + epsilon)).clamp(LEAST_RATIO, 1 / LEAST_RATIO)
            running_var *= ratio.to(running_var)
        else:
            difference = (found_mean - mean).to(x)
            _movable(module)[0].sub_(difference.to(_movable(module)[0]))
            x -= difference.reshape(1, -1, *(1,) * (x.ndim - 2))

    with _listening(model, move):
        yield
