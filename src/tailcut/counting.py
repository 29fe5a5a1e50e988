"""Counts of parameters and of multiply-accumulate operations (MACs) per forward."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from tailcut.model_inputs import InputTensors, example_inputs
from tailcut.running import evaluating, forward, keeping_buffers

aten = torch.ops.aten


@dataclass(frozen=True)
class MacCount:
    """Multiply-accumulate operations of one run.

    Attributes:
        total: of the whole network.
        layers: of each module that multiplies by itself, by its name ("" is the network), in the order in which
            they first did; modules without are left out. They add up to `total`.
    """

    total: int
    layers: dict[str, int]


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, frozen ones too, tied ones counted once; `model` is not changed.

    A tensor that is computed from others by a parametrisation (a truncated weight, for one) counts as what it is
    computed to: with the size that the layer sees.
    """
    sizes: dict[tuple[int, ...], int] = {}  # by the identities of what is trained
    inside = _inside_parametrizations(model)
    if not inside:
        return sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad(), evaluating(model):
        for module in model.modules():
            if module in inside:
                continue
            for parameter in module.parameters(recurse=False):
                sizes[(id(parameter),)] = parameter.numel()
            for name, holder in _parametrizations(module):
                originals = tuple(map(id, holder.parameters(recurse=False)))
                if originals and originals not in sizes:
                    sizes[originals] = getattr(module, name).numel()
    return sum(sizes.values())


def count_macs(model: nn.Module, example_input: InputTensors) -> MacCount:
    """MACs of one run of `model`, which is not changed; give a batch of one input for MACs per input.

    Counted as they are executed: convolutions, transposed convolutions, linear layers, all matrix products
    (`@`, `bmm`, `einsum`, ..., those of recurrent layers, except cuDNN's) and both products of attention. Adding
    a bias, batch norm, pooling and everything that goes element by element is not counted. That is half of what
    `torch.utils.flop_counter` gives, which counts a multiplication and an addition as two. Zeros that padding
    adds count as inputs.

    Computing parametrised weights is not counted: a truncated network counts as the dense network that it stands
    for (`execution.fuse` reports what the narrow layers save).

    The network runs once, without gradients and in evaluation mode, so that no running statistics move. One
    on the meta device runs there, in no time.

    Args:
        model: any network.
        example_input: its input, a tuple of its inputs, or a dict of them by name. Only their shapes matter if the
            network is on the meta device.

    Raises:
        ArgumentError: `example_input` is something else, or the network does not take it.
    """
    inputs = example_inputs(example_input)
    if any(parameter.is_meta for parameter in model.parameters()):
        inputs = inputs.map(lambda tensor: tensor.to("meta"))
    counter = _Counter()
    with torch.no_grad(), evaluating(model), keeping_buffers(model), _followed(model, counter), counter:
        forward(model, inputs)
    return MacCount(sum(counter.counts.values()), counter.counts)


class _Counter(TorchDispatchMode):
    """Adds up the MACs of torch's operations under the name of the module that is running."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: dict[str, int] = {}
        self.running: list[str | None] = [""]  # names of the modules on the way; None: not to be counted

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        formula = _FORMULAS.get(func.overloadpacket)
        if formula is None:
            with self:  # an operation made of others is taken apart, so that these are seen
                parts = func.decompose(*args, **(kwargs or {}))
            return func(*args, **(kwargs or {})) if parts is NotImplemented else parts
        result = func(*args, **(kwargs or {}))
        name = self.running[-1]
        if name is not None:
            self.counts[name] = self.counts.get(name, 0) + formula(result, *args)
        return result


def _convolution(result: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    _, _, _, _, is_transposed, *_ = rest
    kernel = weight.shape[1:].numel()  # what one number of the output, or of the transposed one's input, meets
    return (x if is_transposed else result).numel() * kernel


def _product(_: Tensor, a: Tensor, b: Tensor, *__: Any) -> int:
    """Of a matrix, or of each of a batch, with another one or with a vector."""
    return a.numel() * (b.shape[-1] if b.ndim > 1 else 1)


def _added_product(result: Tensor, _: Tensor, a: Tensor, b: Tensor, *__: Any) -> int:
    return _product(result, a, b)


def _attention(_: object, queries: Tensor, keys: Tensor, values: Tensor, *__: Any) -> int:
    """(..., tokens, size) each: every query meets every key, and every weight of the two a value."""
    per_pair = queries.shape[-1] + values.shape[-1]
    return queries.shape[:-1].numel() * keys.shape[-2] * per_pair


def _lstm(_: object, x: Tensor, input_weight: Tensor, hidden_weight: Tensor, *__: Any) -> int:
    """Count every step of every sequence with both weights: `x` is (steps, batch, size)."""
    return x.shape[:2].numel() * (input_weight.numel() + hidden_weight.numel())


def operation_macs(func: Any, result: Any, args: tuple[Any, ...]) -> int:
    """MACs of one of torch's operations, 0 of one that is not counted.

    Args:
        func: the operation, as a `TorchDispatchMode` sees it.
        result: what it gave.
        args: its positional arguments.
    """
    formula = _FORMULAS.get(func.overloadpacket)
    return 0 if formula is None else formula(result, *args)


_FORMULAS: dict[Any, Callable[..., int]] = {
    aten.convolution: _convolution,
    aten.mkldnn_rnn_layer: _lstm,
    **dict.fromkeys((aten.mm, aten.bmm, aten.mv, aten.dot, aten.vdot), _product),
    **dict.fromkeys((aten.addmm, aten.baddbmm, aten.addmv, aten.addbmm), _added_product),
    **dict.fromkeys(
        (
            aten._scaled_dot_product_flash_attention,
            aten._scaled_dot_product_flash_attention_for_cpu,
            aten._scaled_dot_product_efficient_attention,
            aten._scaled_dot_product_cudnn_attention,
            aten._scaled_dot_product_fused_attention_overrideable,
        ),
        _attention,
    ),
}


@contextmanager
def _followed(model: nn.Module, counter: _Counter) -> Iterator[None]:
    inside = _inside_parametrizations(model)
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            own = None if module in inside else name

            def enter(module: nn.Module, args: Any, own: str | None = own) -> None:
                counter.running.append(own)

            def leave(module: nn.Module, args: Any, output: Any) -> None:
                counter.running.pop()

            hooks.enter_context(module.register_forward_pre_hook(enter, prepend=True))
            hooks.enter_context(module.register_forward_hook(leave))
        yield


def _parametrizations(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parametrizations of a module with the names of the parameters that they compute."""
    if parametrize.is_parametrized(module) and isinstance(module.parametrizations, nn.ModuleDict):
        yield from module.parametrizations.items()


def _inside_parametrizations(model: nn.Module) -> set[nn.Module]:
    """Return the modules inside parametrizations, which compute weights."""
    holders = [module for module in model.modules() if isinstance(module, parametrize.ParametrizationList)]
    return {module for holder in holders for module in holder.modules()}
