"""Feature map of each layer in a running network: the layer's output, followed to the activation behind it.

A layer's output is followed from operation to operation, so that it does not matter whether an activation is a module
or a function, or in which module the two stand:

- through what works channel by channel: normalisation, addition and multiplication (of a shortcut, a scale, a gate),
  dropout, concatenation along the channels, max pooling;
- up to and including the first activation; its result is the map. In a concatenation, the layer's own channels are.
- An addition of two layers' outputs (a shortcut with a convolution) belongs to both from there on.
- Where another layer or any other operation takes it before an activation comes (a linear bottleneck), the map is what
  that operation takes. Means and average pooling are only looking at it, as in a squeeze-and-excite branch.
- What nothing takes is the map at the end of the forward.

An activation written out in several steps, x * sigmoid(x), counts at its first non-linear step; operations that torch
does not show to function modes (custom autograd functions) end the way.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from tailcut.channels.layer_kinds import Dense, is_dense, layer_kind
from tailcut.errors import ArgumentError, StructureError


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names of torch's functions and methods, without underscores at either end (`relu` is relu, relu_ and F.relu).
ACTIVATIONS = _names(
    "relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish sigmoid log_sigmoid logsigmoid hardsigmoid tanh "
    "hardtanh tanhshrink hardswish hardshrink softshrink softplus softsign threshold clamp clamp_min clip maximum"
)
ARITHMETIC = _names("add iadd radd sub isub rsub mul imul rmul div idiv truediv itruediv addcmul lerp")
CHANNELWISE = _names(
    "batch_norm instance_norm group_norm layer_norm rms_norm local_response_norm dropout dropout1d dropout2d dropout3d "
    "alpha_dropout feature_alpha_dropout feature_dropout contiguous clone to type float double half bfloat16 type_as "
    "max_pool1d max_pool2d max_pool3d"
)
CONCATENATIONS = _names("cat concat concatenate")
ONLOOKERS = _names(
    "neg mean sum amax amin max min var std norm vector_norm avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"
)
FOLLOWED = ACTIVATIONS | ARITHMETIC | CHANNELWISE

Take = Callable[[tuple[str, ...], Tensor], None]


@dataclass(frozen=True)
class _Part:
    """The channels of a tensor that come from a layer."""

    layer: str
    axis: int
    start: int
    size: int


def channel_axis(layer: nn.Module) -> int:
    """Return the channel axis of a layer's output: 1 for a convolution, the last for any other."""
    return 1 if isinstance(layer, _ConvNd) else -1


def has_maps(module: nn.Module) -> bool:
    """Return whether it is a convolution or a linear layer, whose output is scored."""
    return isinstance(module, _ConvNd) or is_dense(module)


def num_channels(layer: nn.Module) -> int:
    """Return the number of output channels of a convolution or a linear layer."""
    if isinstance(layer, _ConvNd):
        return layer.out_channels
    kind = layer_kind(layer)
    if isinstance(kind, Dense):
        return kind.features(kind.sizes(layer))[1]
    raise StructureError(f"expected a convolution or a linear layer, got {type(layer).__name__}")


def is_tokens(output: Tensor) -> bool:
    """Return whether a linear layer's output is tokens, (batch, tokens ..., features), and not (batch, features)."""
    return output.ndim >= 3 and output.is_floating_point() and output.numel() > 0


def as_maps(output: Tensor, axis: int) -> Tensor:
    """Return a layer's output as two-dimensional maps.

    Args:
        output: of a 2-D convolution (batch, channels, height, width), taken as it is; of a 1-D one (batch, channels,
            length), maps of height 1; of a 3-D one (batch, channels, depth, height, width), where each slice is taken
            as a separate image; for a linear layer (batch, ..., channels), maps of height 1 of the axes between.
        axis: the axis of the channels, 1 or -1.

    Returns:
        (batch, channels, height, width).
    """
    if axis == -1:
        flat = output.reshape(output.shape[0], -1, output.shape[-1])  # (batch, between, channels)
        return flat.transpose(1, 2)[:, :, None]
    if output.ndim == 5:
        return output.transpose(1, 2).flatten(0, 1)
    return output if output.ndim == 4 else output.reshape(*output.shape[:2], 1, -1)


@contextmanager
def follow_maps(
    layers: Mapping[str, nn.Module], take: Take, *, only_tokens: Container[str] = ()
) -> Iterator["MapFollower"]:
    """Within the block, `take` gets the map of each of the layers as soon as a forward has it.

    The layers are left as they were: hooks are removed at the end.

    Args:
        layers: name -> module.
        take: called with the names of the layers whose map it is, and the map as the network has it, (batch, channels,
            ...). It must not change the map. A layer that runs several times gives several maps.
        only_tokens: names of the layers that are followed only where their output is a sequence of tokens.
    """
    follower = MapFollower(take)
    with ExitStack() as hooks:
        for name, layer in layers.items():
            hook = follower.hook(name, layer, only_tokens=name in only_tokens)
            hooks.enter_context(layer.register_forward_hook(hook))
        with follower:
            yield follower
        follower.finish()


class MapFollower(TorchFunctionMode):
    """Follows the outputs of layers through a forward; see the head of this module.

    Args:
        take: see `follow_maps`.

    Attributes:
        whole: while `take` is called: the tensor of the forward in which the map lies, and the axis, start and size of
            the map in it. A part is a view that the forward has not seen, so that only the whole has a gradient.
    """

    def __init__(self, take: Take) -> None:
        super().__init__()
        self._take = take
        self.whole: tuple[Tensor, int, int, int] | None = None
        # By id; the tensors are held, so that no id is given twice.
        self._followed: dict[int, tuple[Tensor, list[_Part]]] = {}

    def hook(self, name: str, layer: nn.Module, *, only_tokens: bool = False) -> Callable[[nn.Module, Any, Any], None]:
        """Return a forward hook that follows the output of `layer`; with `only_tokens` only if it is tokens."""
        axis = channel_axis(layer)
        num_axes = len(layer.kernel_size) + 2 if isinstance(layer, _ConvNd) else None

        def begin(module: nn.Module, arguments: Any, output: Any) -> None:
            if isinstance(output, Tensor) and (not only_tokens or is_tokens(output)):
                if num_axes not in (None, output.ndim):
                    raise ArgumentError(
                        f"layer {name} gives {tuple(output.shape)}, {num_axes} axes were expected: give the network "
                        "batches, (batch, channels, height, width)"
                    )
                self._add(output, [_Part(name, axis, 0, output.shape[axis])])

        return begin

    def parts_of(self, x: object) -> list[tuple[str, int, int]]:
        """Layer, first channel and number of channels of each layer that is followed and now lies in `x`."""
        return [(part.layer, part.start, part.size) for part in self._parts(x)]

    def finish(self) -> None:
        """Give what is still followed: the forward has ended."""
        followed = list(self._followed.values())
        self._followed.clear()
        for x, parts in followed:
            self._give(x, parts)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, and see what it means for the tensors that are followed."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._followed:
            inputs = {id(x): x for x in _tensors((*args, *kwargs.values())) if id(x) in self._followed}
            if inputs and next(_tensors((result,)), None) is not None:
                self._see(getattr(func, "__name__", "").strip("_"), list(inputs.values()), args, kwargs, result)
        return result

    def _see(self, name: str, inputs: list[Tensor], args: Any, kwargs: Any, result: Any) -> None:
        if name in ONLOOKERS:
            return
        if name in CONCATENATIONS and self._concatenate(args, kwargs, result):
            return
        for x in inputs:
            # Each layer's channels by themselves: which other layers are followed too must not change a layer's map.
            parts = self._parts(x)
            going = [part for part in parts if name in FOLLOWED and _goes_on(part, x, result)]
            self._give(x, [part for part in parts if part not in going])
            self._followed.pop(id(x), None)
            if going:
                self._add(result, going)
        if name in ACTIVATIONS and isinstance(result, Tensor):
            self._give(result, self._parts(result))
            self._followed.pop(id(result), None)

    def _concatenate(self, args: Any, kwargs: Any, result: Tensor) -> bool:
        """Follow into a concatenation along the channels; False if nothing followed lies along them."""
        tensors = args[0] if args else kwargs["tensors"]
        axis = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
        moved, ended, start = [], [], 0
        for x in tensors:
            for part in self._parts(x):
                if part.axis % result.ndim == axis % result.ndim:
                    moved.append(_Part(part.layer, part.axis, start + part.start, part.size))
                else:
                    ended.append((x, part))
            start += x.shape[axis] if x.ndim == result.ndim else 0  # torch takes an empty vector among them
        if not moved:
            return False
        for x in tensors:
            self._followed.pop(id(x), None)
        for x, part in dict.fromkeys(ended):
            self._give(x, [part])
        self._add(result, moved)
        return True

    def _add(self, x: Tensor, parts: list[_Part]) -> None:
        _, known = self._followed.get(id(x), (x, []))
        self._followed[id(x)] = (x, known + [part for part in parts if part not in known])

    def _parts(self, x: object) -> list[_Part]:
        return self._followed.get(id(x), (None, []))[1]

    def _give(self, x: Tensor, parts: list[_Part]) -> None:
        by_place: dict[tuple[int, int, int], list[str]] = {}
        for part in parts:
            by_place.setdefault((part.axis, part.start, part.size), []).append(part.layer)
        for (axis, start, size), names in by_place.items():
            self.whole = x, axis, start, size
            self._take(tuple(names), x if size == x.shape[axis] else x.narrow(axis, start, size))
            self.whole = None


def _goes_on(part: _Part, x: Tensor, result: Any) -> bool:
    """Return whether the result has the images and the channels of `x`, as channel-wise functions leave them."""
    if not isinstance(result, Tensor) or result.ndim != x.ndim or len(result) != len(x):
        return False
    return result.shape[part.axis] == x.shape[part.axis]


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among the values, and in lists and tuples among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (item for item in value if isinstance(item, Tensor))
