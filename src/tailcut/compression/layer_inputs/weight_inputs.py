"""What the weights of plain layers are multiplied with in a forward, attention's among them, and what comes out."""

from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from tailcut.compression.layer_inputs.multiplications import is_packed_attention, multiplies, stored_name
from tailcut.compression.layer_inputs.recurrent_inputs import (
    Cell,
    Recurrent,
    is_recurrent,
    multiplied_weights,
    recurrent_inputs,
)

Listen = Callable[[str, Tensor], None]


@contextmanager
def listening_before(model: nn.Module, names: Container[str], listen: Listen) -> Iterator[None]:
    """Within the block, pass the inputs of weights to a function, with the weight's name, before they are multiplied.

    Empty inputs and those of calls by name are not passed. Where several groups of rows have inputs of their own, these
    lie side by side along the channels: of a convolution in groups, and of attention whose keys are not its queries.

    Args:
        model: in evaluation mode.
        names: of the weights.
        listen: may change the weight.
    """
    with ExitStack() as stack:
        for name, module in model.named_modules():
            prefix = f"{name}." if name else ""
            if is_packed_attention(module):
                stack.enter_context(_attention_of(module, name).listened(names, listen, None))
            elif multiplies(module):
                stored = f"{prefix}{stored_name(module)}"
                if stored in names:
                    stack.callback(before(module, stored, listen).remove)
            elif is_recurrent(module):
                stack.callback(_before_recurrent(module, prefix, names, listen).remove)
        yield


def before(module: nn.Module, name: str, listen: Listen) -> RemovableHandle:
    """Pass inputs of a module to a function before it runs, with a name; not empty ones, nor those given by name."""

    def hook(_: nn.Module, args: tuple[object, ...]) -> None:
        if args and isinstance(args[0], Tensor) and args[0].numel():
            listen(name, args[0])

    return module.register_forward_pre_hook(hook)


def _before_recurrent(module: Recurrent | Cell, prefix: str, names: Container[str], listen: Listen) -> RemovableHandle:
    """Pass what weights of a recurrent layer are multiplied with to a function before it runs."""
    wanted = {own for own, _ in multiplied_weights(module) if f"{prefix}{own}" in names}

    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        if wanted and args and (isinstance(args[0], PackedSequence) or args[0].numel()):
            for own, x in recurrent_inputs(module, args):
                if own in wanted:
                    listen(f"{prefix}{own}", x)

    return module.register_forward_pre_hook(hook)


@contextmanager
def listening_after_attention(module: nn.Module, name: str, listen: Listen) -> Iterator[None]:
    """Within the block, pass what attention's two products with a bias give to a function, channels last.

    Args:
        module: see `is_packed_attention`.
        name: of the module; its second product has the name of `out_proj`.
        listen: may change the bias, and of the second product the output.
    """
    with _attention_of(module, name).listened((), None, listen):
        yield


class _Attention:
    """The forward of an `nn.MultiheadAttention` that shows its products, while somebody listens.

    It stands in the place of the module's own. What `out_proj` gets is seen by running the module with the identity in
    its place.
    """

    def __init__(self, module: nn.MultiheadAttention, name: str) -> None:
        self._module, self._name, self._run = module, name, module.forward
        self._names: list[Container[str]] = []
        self._before: list[Listen] = []
        self._after: list[Listen] = []

    @contextmanager
    def listened(self, names: Container[str], listen: Listen | None, after: Listen | None) -> Iterator[None]:
        """Within the block, show inputs of the weights of these names, or outputs."""
        if listen is not None:
            self._names.append(names)
            self._before.append(listen)
        if after is not None:
            self._after.append(after)
        self._module.__dict__["forward"] = self
        try:
            yield
        finally:
            if listen is not None:
                at = self._before.index(listen)
                del self._before[at], self._names[at]
            if after is not None:
                self._after.remove(after)
            if not self._before and not self._after:
                self._module.__dict__.pop("forward", None)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not query.numel() or query.is_nested:
            return self._run(query, key, value, *args, **kwargs)
        out = self._module.out_proj
        prefix = f"{self._name}." if self._name else ""
        self._show_first(f"{prefix}in_proj_weight", [query] if query is key is value else [query, key, value])
        with _identity_in(out):
            mixed, weights = self._run(query, key, value, *args, **kwargs)
        self._show_input(f"{prefix}out_proj.weight", mixed)
        output = functional.linear(mixed, out.weight, out.bias)
        if out.bias is not None:
            self._show_output(f"{prefix}out_proj", output)
        return output, weights

    def _show_first(self, name: str, inputs: list[Tensor]) -> None:
        """Show the first product: of one input, or of queries, keys and values."""
        if not all(x.numel() for x in inputs):
            return
        module, x = self._module, _side_by_side(inputs)
        self._show_input(name, x)
        if self._after and module.in_proj_bias is not None:
            weights, biases = (part.chunk(len(inputs)) for part in (module.in_proj_weight, module.in_proj_bias))
            given = zip(x.chunk(len(inputs), -1), weights, biases, strict=True)
            self._show_output(self._name, torch.cat([functional.linear(*parts) for parts in given], -1))

    def _show_input(self, name: str, x: Tensor) -> None:
        for names, listen in zip(self._names, self._before, strict=True):
            if name in names:
                listen(name, x)

    def _show_output(self, name: str, y: Tensor) -> None:
        for listen in self._after:
            listen(name, y)


def _side_by_side(inputs: list[Tensor]) -> Tensor:
    """Return one input as it is, several as (positions, inputs x channels), the shorter ones over and over."""
    if len(inputs) == 1:
        return inputs[0]
    flat = [x.reshape(-1, x.shape[-1]) for x in inputs]
    places = torch.arange(max(map(len, flat)), device=inputs[0].device)
    return torch.cat([x[places % len(x)] for x in flat], -1)


def _attention_of(module: nn.Module, name: str) -> _Attention:
    """Return the forward of attention that somebody listens to already, or a new one."""
    known = module.__dict__.get("forward")
    return known if isinstance(known, _Attention) else _Attention(cast(nn.MultiheadAttention, module), name)


@contextmanager
def _identity_in(layer: nn.Linear) -> Iterator[None]:
    """Within the block a square linear layer gives what it gets (changes the module, and back)."""
    own = dict(layer._parameters)
    layer._parameters["weight"] = nn.Parameter(torch.eye(len(layer.weight)).to(layer.weight), requires_grad=False)
    if layer.bias is not None:
        layer._parameters["bias"] = nn.Parameter(torch.zeros_like(layer.bias), requires_grad=False)
    try:
        yield
    finally:
        layer._parameters.update(own)
