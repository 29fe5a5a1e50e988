"""`LazyMap`: a full map that passes for a tensor and is written to memory only when its values are needed."""

import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tailcut.errors import StructureError
from tailcut.execution.cpu.tiles import project, write
from tailcut.execution.ir.expression import Expression, Given, a_source, grid_of, nodes, parameters, sources
from tailcut.execution.lazy.context import (
    WRITTEN_WITH_VIEW,
    SharedMap,
    UnsupportedError,
    active_context,
    current_context,
)
from tailcut.execution.lazy.unsupported import is_autocast, refuse_unsupported, unsupported_reason
from tailcut.transform.dct import without_autocast

Handler = Callable[..., Any]
# By the name of torch's function or method, or by the function itself where others of that name have other arguments.
# A handler returns NotImplemented for calls that it cannot do in low rank.
HANDLERS: dict[Any, Handler] = {}
# Functions that read only shape and type, which the tensor itself has.
_FACTS = {
    *("shape", "ndim", "dim", "size", "numel", "nelement", "ndimension", "__len__", "__hash__", "names"),
    *("dtype", "is_floating_point", "is_complex", "element_size", "device", "get_device", "layout", "is_contiguous"),
    *("is_cuda", "is_cpu", "is_meta", "is_sparse", "is_quantized", "is_nested", "is_mkldnn", "is_mps", "is_xpu"),
    "_backward_hooks",
}


class LazyMap(torch.Tensor):
    """A map (batch, channels, *grid) or (batch, *grid, channels) given by expressions over low-rank sources.

    Every function of torch may be called with it. Those in `HANDLERS` keep it low-rank; for all others the full map
    is written first, and the layers that made it are told so in the record. From then on it is the written map: views
    of that see all changes.

    Attributes:
        parts: expressions whose channels, one below the other, are the map's.
        channel_axis: which axis the channels are.
        makers: names of the layers that it comes from.

    A lazy view (`link`) cannot be written to while the other one lives.
    """

    parts: tuple[Expression, ...]
    channel_axis: int
    makers: tuple[str, ...]
    _full: Tensor | None
    _differentiable: bool
    _relatives: "list[weakref.ref[LazyMap]]"

    @staticmethod
    def __new__(cls, parts: Sequence[Expression], channel_axis: int, makers: Sequence[str]) -> "LazyMap":
        """Make a tensor of that shape without storage."""
        channels = sum(part.channels for part in parts)
        grid = list(grid_of(parts[0]))
        like = a_source(parts[0])
        grid.insert(channel_axis, channels)
        made: LazyMap = torch.Tensor._make_wrapper_subclass(cls, grid, dtype=like.dtype, device=like.device)
        made.parts = tuple(parts)
        made.channel_axis = channel_axis
        made.makers = tuple(dict.fromkeys(makers))
        made._full = None
        made._differentiable = torch.is_grad_enabled()
        made._relatives = []
        if made._has_gradients():
            # Torch's own bookkeeping must not take it for a constant: what hides it from us (a Function that switches
            # gradients on again) would then drop gradients in silence.
            with torch._C.DisableTorchFunctionSubclass():
                made.requires_grad_().register_hook(_refuse_gradient)
        return made

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Handle a function of torch: keep the map low-rank where it can be, else write it."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        is_getter = name == "__get__"
        if is_getter:
            name = getattr(getattr(func, "__self__", None), "__name__", name)
        with torch._C.DisableTorchFunctionSubclass():
            if name in _FACTS:
                return func(*args, **kwargs)
            refuse_unsupported()
            if is_getter and name in ("requires_grad", "is_leaf"):
                return args[0]._has_gradients() == (name == "requires_grad")
            if any(item._has_gradients() for item in _maps_in(_watched(name, args, kwargs))):
                _give_up(f"{name} asks for the gradient of a map")
            handler = HANDLERS.get(name) or HANDLERS.get(func)
            result = NotImplemented if handler is None or active_context() is None else _handled(handler, args, kwargs)
            return _on_full(func, name, args, kwargs) if result is NotImplemented else result

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation that passed `__torch_function__` on the full map.

        That is below automatic differentiation (TorchScript, vmap), where no gradient finds the way back to what made
        the map. An error would come out of TorchScript as another one; so the forward is marked instead.
        """
        context = active_context()
        if context is not None and not context.spoiled:
            leaves = pytree.tree_leaves((args, kwargs))
            if any(isinstance(item, LazyMap) and item._has_gradients() for item in leaves):
                context.spoiled = f"{func} takes a map where torch records no gradients (within TorchScript or vmap)"
            context.spoiled = context.spoiled or unsupported_reason()
        return _on_full(func, str(func), args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"LazyMap(shape={tuple(shape_of(self))}, from {', '.join(self.makers)})"

    def materialize(self, reason: str) -> Tensor:
        """Return the map as an ordinary tensor; written at the first call, with `reason` in the record.

        That may be after the forward, where a hook or an object kept the map. It has the gradients it was made with.
        """
        if self._full is None:
            self.check_history()
            context = active_context()
            if context is not None:
                context.note(self.makers, reason, num_bytes(self))
            engine = "torch" if context is None else context.engine
            device = a_source(self.parts[0]).device
            # An ordinary tensor in inference mode too: torch counts the writes to it, see `share`.
            with (
                torch.inference_mode(mode=False),
                torch.set_grad_enabled(self._differentiable),
                without_autocast(device),
            ):
                maps = [write(part, engine=engine) for part in self.parts]
                stacked = maps[0] if len(maps) == 1 else torch.cat(maps)
                self._full = stacked.movedim(0, self.channel_axis).contiguous()
        return self._full

    def project(self, matrix: Tensor) -> Tensor:
        """Compute matrix @ map over the channels: (num_out, channels) to (num_out, batch, *spatial), by tiles."""
        if self._full is not None:
            return project_full(self._full, matrix, self.channel_axis)
        return project(self.parts, matrix, engine=current_context().engine)

    def write_parts(self, reason: str) -> None:
        """Write the parts to memory where each use would otherwise recompute them."""
        context = current_context()
        context.note(self.makers, reason, num_bytes(self))
        written = [write(part, engine=context.engine) for part in self.parts]
        self.parts = tuple(Given(source.shape[0], source) for source in written)

    def become(self, other: "LazyMap") -> "LazyMap":
        """Take the other's content, for in-place functions."""
        self.check_alone()
        self.parts, self.makers, self._full = other.parts, other.makers, other._full
        return self

    def link(self, view: "LazyMap") -> "LazyMap":
        """Record that `view` shares its storage with this map and its relatives, as torch's views do. Returns it."""
        for known in (weakref.ref(self), *self._relatives):
            relative = known()
            if relative is not None:
                relative._relatives.append(weakref.ref(view))
                view._relatives.append(known)
        return view

    def check_alone(self) -> None:
        """Raise `UnsupportedError` if another lazy map shares this one's storage."""
        if self.has_relatives():
            _give_up(WRITTEN_WITH_VIEW)

    def share(self) -> None:
        """Let the network have the written map, and the forward give up if it writes there: relatives do not change."""
        context = active_context()
        if context is None or self._full is None or self._full.is_inference():  # torch counts no writes to the last
            self.check_alone()
        else:
            context.share(SharedMap(self._full, self._full._version, self._relatives))

    def has_relatives(self) -> bool:
        """Return whether another lazy map shares this one's storage."""
        return any(relative() is not None for relative in self._relatives)

    def like(self, parts: Sequence[Expression]) -> "LazyMap":
        """Return a map of these parts, with the same makers and the same axis of channels."""
        return LazyMap(parts, self.channel_axis, self.makers)

    def check_history(self) -> None:
        """Raise `UnsupportedError` for outputs of a `torch.autograd.Function`: the parts lack its backward pass."""
        with torch._C.DisableTorchFunctionSubclass():
            if self._differentiable and self.grad_fn is not None:
                _give_up(f"{type(self.grad_fn).__name__} has a backward pass of its own for a map")

    def _has_gradients(self) -> bool:
        if self._full is not None:
            return self._full.requires_grad
        below = nodes(self.parts)
        return self._differentiable and any(tensor.requires_grad for tensor in (*sources(below), *parameters(below)))


def _give_up(reason: str) -> NoReturn:
    """Raise `UnsupportedError`, upon which the network runs densely, or `StructureError` after its forward."""
    if active_context() is None:
        raise StructureError(
            f"{reason}, out of a fused network's forward; do it within the forward, or use the model itself"
        )
    raise UnsupportedError(reason)


def _refuse_gradient(_: Tensor) -> NoReturn:
    raise StructureError(
        "a torch.autograd.Function, or other code that torch records no gradients of, took a map of a fused network, "
        "and its gradient would not reach the layers before; train the model itself"
    )


def _watched(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Any]:
    """Return the arguments whose gradients a function gives, shows or changes."""
    if name in ("register_hook", "retain_grad", "grad_fn", "__set__"):
        return args[:1]
    if name in ("grad", "backward"):
        return (kwargs["inputs"],) if "inputs" in kwargs else args[1:2] if name == "grad" else ()
    return ()


def handles(*functions: str | Callable[..., Any]) -> Callable[[Handler], Handler]:
    """Register the decorated handler for these functions of torch, given by name or themselves; see `HANDLERS`."""

    def register(handler: Handler) -> Handler:
        for function in functions:
            HANDLERS[function] = handler
        return handler

    return register


def shape_of(tensor: Tensor) -> torch.Size:
    """Return the shape, without asking the map's handlers."""
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.shape


def num_bytes(tensor: Tensor) -> int:
    """Return the bytes of the full map in memory."""
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.numel() * tensor.element_size()


def project_full(full: Tensor, matrix: Tensor, channel_axis: int) -> Tensor:
    """Compute matrix @ an ordinary tensor over its axis of channels: (num_out, the other axes in order)."""
    if channel_axis == full.ndim - 1:
        return (matrix @ full.flatten(0, -2).T).reshape(matrix.shape[0], *full.shape[:-1])
    flat = torch.matmul(matrix, full.flatten(2))
    return flat.transpose(0, 1).reshape(matrix.shape[0], full.shape[0], *full.shape[2:])


def as_tensor(value: Any, reason: str) -> Any:
    """Replace all lazy maps in a structure of lists, tuples and dicts by ordinary tensors."""
    if isinstance(value, Tensor):
        return value.materialize(reason) if isinstance(value, LazyMap) else value
    return pytree.tree_map(lambda item: item.materialize(reason) if isinstance(item, LazyMap) else item, value)


def _handled(handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the handler; NotImplemented where no map is lazy, and for arguments that torch takes and it does not."""
    maps = _maps_in((*args, *kwargs.values()) if kwargs else args)
    for item in maps:
        item.check_history()
    num_written = sum(item._full is not None for item in maps)
    if num_written == len(maps) or is_autocast(maps[0].device.type):
        return NotImplemented
    if num_written:
        args, kwargs = pytree.tree_map(_written, (args, kwargs))
    try:
        return handler(*args, **kwargs)
    except TypeError:
        # Only now, as this takes longer than most handlers.
        try:
            inspect.signature(handler).bind(*args, **kwargs)
        except TypeError:
            return NotImplemented
        raise


def _written(value: Any) -> Any:
    """Return the written map of one that is not lazy any more, all else as it is."""
    return value._full if isinstance(value, LazyMap) and value._full is not None else value


def _changed(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "LazyMap | None":
    """Return the map that a function writes to."""
    out = kwargs.get("out")
    if isinstance(out, LazyMap):
        return out
    first = args[0] if args else kwargs.get("input")
    return first if isinstance(first, LazyMap) and _works_in_place(name, kwargs) else None


def _on_full(func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    reason = f"{name} needs the whole map"
    changed = _changed(name, args, kwargs)
    if changed is not None:
        changed.check_alone()
    result = func(*as_tensor(args, reason), **as_tensor(kwargs, reason))
    _watch_views(result, args)
    return result if changed is None or result is None else changed


def _watch_views(result: Any, args: tuple[Any, ...]) -> None:
    """Have the forward watch the maps that others share and that the result is a view of, for writes to it."""
    shared = [item for item in _maps_in(args) if item._full is not None and item.has_relatives()]
    if not shared:
        return
    places = {item._full.untyped_storage().data_ptr(): item for item in shared if item._full is not None}
    for leaf in pytree.tree_leaves(result):
        if type(leaf) is Tensor and leaf.layout == torch.strided:
            found = places.get(leaf.untyped_storage().data_ptr())
            if found is not None:
                found.share()


def _maps_in(args: Sequence[Any]) -> list[LazyMap]:
    flat = [item for value in args for item in (value if isinstance(value, (tuple, list)) else (value,))]
    return [item for item in flat if isinstance(item, LazyMap)]


def _works_in_place(name: str, kwargs: dict[str, Any]) -> bool:
    stem = name.strip("_")
    in_place_operator = name.startswith("__i") and stem not in ("index", "invert", "int", "iter")
    single = name.endswith("_") and not name.endswith("__")
    return bool(kwargs.get("inplace")) or single or in_place_operator or stem == "setitem"
