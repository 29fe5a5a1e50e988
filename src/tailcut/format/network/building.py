"""Construction of the registered network that a file names: on the meta device first, then with memory."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from tailcut.errors import CorruptFileError, LimitError, MissingExtraError, ModelMismatchError
from tailcut.format.container.contents import StoredBase
from tailcut.limits import check_work, too_many_numbers
from tailcut.structure import Base, create_model, family, model_names
from tailcut.structure.outputs import output_tensors
from tailcut.structure.wire import Value


def named_base(base: StoredBase) -> Base:
    """Return the base with its arguments by name; raise `ModelMismatchError` if it is not registered."""
    if base.name not in model_names():
        raise ModelMismatchError(
            f"the file names the model {base.name!r}, which is not registered here: import the module that registers "
            f"it (--import on the command line), or load into= a network (registered: {', '.join(model_names())})"
        )
    names = list(family(base.name).defaults)
    arguments: dict[str, Value] = {}
    for place, value in base.arguments:
        if place >= len(names):
            raise ModelMismatchError(
                f"the file gives argument number {place} of model {base.name!r}, which has {len(names)} here; "
                "it was written by a newer version of the model"
            )
        arguments[names[place]] = value
    return Base(base.name, arguments)


def build_on_meta(base: StoredBase, max_parameters: int) -> nn.Module:
    """Return the network on the meta device.

    Raises:
        LimitError: it has more than `max_parameters` numbers; it is not built to the end.
        ModelMismatchError: the name or an argument is not known here.
        CorruptFileError: it cannot be built with these arguments.
    """
    named = named_base(base)
    try:
        with _capped(max_parameters):
            return on_meta(named)
    except (LimitError, MissingExtraError):
        raise
    except Exception as error:
        # Errors that a family may raise on arguments that only a damaged file would have.
        raise CorruptFileError(f"the model {base.name!r} cannot be built with the stored arguments: {error}") from error


def on_meta(base: Base) -> nn.Module:
    """Return the network on the meta device, without any check; errors are those of its code."""
    with torch.device("meta"), _Unfilled(), in_float32():
        return create_model(base.name, **base.arguments)


def build_for_real(base: Base) -> nn.Module:
    """Return the network with freshly initialised tensors. The global random state stays as it is."""
    with torch.random.fork_rng(devices=[]), in_float32():
        return create_model(base.name, **base.arguments)


@contextmanager
def in_float32() -> Iterator[None]:
    """Within the block new tensors are in float32, as registered networks of files are, whatever the default is."""
    default = torch.get_default_dtype()
    if default == torch.float32:  # nothing is set: another thread may be at work
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def needs_real_tensors(model: nn.Module) -> bool:
    """Return whether a network on the meta device has tensors that no file stores: constants that it computes."""
    tensors = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tensors |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    if tensors - set(model.state_dict(keep_vars=True)):
        return True
    own = (value for module in model.modules() for key, value in vars(module).items() if key not in _TORCH_ATTRIBUTES)
    return any(map(_holds_tensor, own))


def materialize(model: nn.Module, device: torch.device) -> nn.Module:
    """Give the tensors of a network on the meta device memory, not yet filled (changes the model).

    Unlike `Module.to_empty` it keeps tied tensors tied.
    """
    fresh: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def empty(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_meta:
            return tensor
        if id(tensor) not in fresh:
            # The old tensor is kept, so that its id is not given to another one.
            fresh[id(tensor)] = tensor, torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        return fresh[id(tensor)][1]

    parameters: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                made = parameters.get(id(parameter))
                made = nn.Parameter(empty(parameter), parameter.requires_grad) if made is None else made
                parameters[id(parameter)] = module._parameters[name] = made
    model._apply(empty)
    return model


_FILLING = frozenset(
    {
        "uniform_",
        "normal_",
        "bernoulli_",
        "fill_",
        "zero_",
        "add_",
        "sub_",
        "mul_",
        "div_",
        "clamp_",
        "erfinv_",
        "copy_",
    }
)
_TORCH_ATTRIBUTES = frozenset(vars(nn.Module()))


def _holds_tensor(value: object) -> bool:
    return any(map(_holds_tensor, value)) if isinstance(value, (set, frozenset)) else bool(output_tensors(value))


class _Unfilled(TorchFunctionMode):
    """Leaves out what would only fill tensors without memory: there, random numbers import half of torch's compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func`, unless it only fills a tensor on the meta device."""
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")
        fills = getattr(func, "__module__", "") == nn.init.__name__ or getattr(func, "__name__", "") in _FILLING
        if fills and isinstance(target, torch.Tensor) and target.is_meta:
            return target
        return func(*args, **kwargs)


@contextmanager
def _capped(max_parameters: int) -> Iterator[None]:
    """Stop a construction as soon as it has passed the caps: arguments of a file may ask for any depth."""
    thread = threading.get_ident()
    counted: dict[int, nn.Parameter] = {}
    total = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal total
        if threading.get_ident() != thread or parameter is None or id(parameter) in counted:
            return
        if is_lazy(parameter):
            raise CorruptFileError(f"parameter {name!r} has no shape before a first forward")
        counted[id(parameter)] = parameter
        total += parameter.numel()
        if total > max_parameters:
            raise too_many_numbers(total, max_parameters)
        check_work(len(counted), max_parameters=max_parameters)

    with register_module_parameter_registration_hook(count):
        yield
