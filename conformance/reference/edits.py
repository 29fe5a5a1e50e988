"""SPEC.md, "Edits": each kind is read, checked against the network, and applied to it.

An own class names modules and tensors, a registered network numbers them: `network` is None where an own class is read
without the network.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from conformance.reference import networks
from conformance.reference.codecs import FLOATS
from conformance.reference.items import Items
from conformance.reference.networks import BATCH_NORMS, CONVOLUTIONS, TRANSPOSED, Module, Tensor, layer, shapes_of
from conformance.reference.refusal import refuse, require

ATTRIBUTES = ("stride", "image_size", "patch_size", "has_shortcut", "use_res_connect", "img_size", "num_channels")
SHORTCUTS = ("downsample", "shortcut")
TRANSFORM = "input_transform"
# Kind of layer -> its sizes.
LAYER_SIZES = {
    1: ("in_channels", "out_channels", "groups"),
    2: ("in_features", "out_features"),
    3: ("num_features",),
    4: ("normalized_shape",),
    5: ("num_groups", "num_channels"),
    6: ("num_parameters",),
    7: ("embedding_dim",),
    8: ("pad_before", "pad_after"),
    9: ("nx", "nf"),
}


@dataclass
class Kept:
    """A tensor kept as coefficients; its numbers in the order of the file."""

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    weights: tuple[int, ...]
    count: int
    numbers: list[float] = field(default_factory=list)
    raw: bytes = b""


# ---- kind 1 ----


def read_regularize(edit: Items, network: Module | None, is_own: bool) -> list[Kept]:
    if is_own:
        count = edit.varint(16_384, "regularize-tensors")
        named = [(edit.text(), edit.shape()) for _ in range(count)]
        require(len({name for name, _ in named}) == count, "regularize-names")
    else:
        assert network is not None
        known = network.parameters()
        # The bitmap is over plain parameters.
        require(not any(tensor.is_kept for _, tensor in known), "regularize-fit", "regularised already")
        chosen = edit.bits(1, len(known), "regularize-selection")
        named = [(name, tensor.shape) for (name, tensor), bit in zip(known, chosen, strict=True) if bit]
    num_settings = edit.varint(len(named), "regularize-settings")
    settings = []
    for _ in range(num_settings):
        mask = edit.varint(65_536, "regularize-axes-set")
        settings.append((mask, [_weight(edit) for _ in range(edit.varint(16, "regularize-weights"))]))
    settings = settings or [(0, [])]
    places = [0] * len(named)
    if num_settings > 1:
        places = [edit.varint(num_settings - 1, "regularize-setting") for _ in named]
    fitted = []
    for (name, shape), place in zip(named, places, strict=True):
        mask, weights = settings[place]
        axes = tuple(axis for axis in range(16) if (mask - 1) >> axis & 1) if mask else tuple(range(len(shape)))
        require(all(axis < len(shape) for axis in axes), "regularize-axes")
        require(not weights or len(axes) <= len(weights), "regularize-weights-too-few")
        fitted.append((name, shape, axes, tuple(weights[: len(axes)]) or (1,) * len(axes)))
    counts = read_counts(edit, fitted)
    return [Kept(*entry, count) for entry, count in zip(fitted, counts, strict=True)]


def _weight(edit: Items) -> int:
    weight = edit.varint()
    require(1 <= weight <= 64, "regularize-weight", str(weight))
    return weight


def read_counts(edit: Items, kept: list[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]]) -> list[int]:
    way = edit.byte()
    sizes = [math.prod(shape) for _, shape, _, _ in kept]
    require(0 not in sizes, "regularize-empty")
    if way in (0, 3):
        largest = edit.varint()
        counts = [min(largest, size) for size in sizes]
    elif way in (1, 4):
        ratio = edit.float64()
        require(0 < ratio <= 1, "regularize-ratio", str(ratio))
        frequencies = [math.prod(shape[axis] for axis in axes) for _, shape, axes, _ in kept]
        counts = [
            size // number * min(number, max(1, math.floor(ratio * number + 0.5)))
            for size, number in zip(sizes, frequencies, strict=True)
        ]
    elif way == 2:
        counts = [edit.varint() for _ in kept]
    else:
        refuse("regularize-way", str(way))
    if way in (3, 4):
        below, width = edit.varint(), edit.byte()
        require(width <= 63, "regularize-differences-width")
        more = edit.bits(width, len(kept), "regularize-differences-bits")
        counts = [count + up - below for count, up in zip(counts, more, strict=True)]
    require(all(1 <= count <= size for count, size in zip(counts, sizes, strict=True)), "regularize-count")
    return counts


def apply_regularize(kept: list[Kept], network: Module) -> None:
    known = dict(network.parameters())
    require(not any(tensor.is_kept for tensor in known.values()), "regularize-fit", "regularised already")
    for entry in kept:
        tensor = known.get(entry.name)
        require(
            tensor is not None and tensor.shape == entry.shape and tensor.type in FLOATS, "regularize-fit", entry.name
        )
    for entry in kept:
        known[entry.name].is_kept = True
        _add_parametrization(network, known[entry.name])


def _add_parametrization(network: Module, tensor: Tensor) -> None:
    """The modules that stand for a tensor kept as coefficients, wherever it stands."""
    truncation = Module("Truncation")
    for _, module in list(network.walk()):
        for name, own in module.tensors.items():
            if own is tensor:
                every = module.children.setdefault("parametrizations", Module("ModuleDict"))
                every.children[name] = Module("ParametrizationList", children={"0": truncation})


# ---- kind 2 ----


def read_stem(edit: Items, network: Module | None, is_own: bool) -> dict[str, Any]:
    name = _names(edit, network, is_own, "stem-module")
    flags = edit.byte()
    require(flags <= 7, "stem-flags")
    bits = edit.bits(1, 192, "")
    require(any(bits), "stem-channels")
    sides = [_positive(edit, 1024, "stem-map-zero", "stem-map") for _ in range(2)]
    removed = [name() for _ in range(_count(edit))]
    entry = _entry(edit)
    resized = [
        (name(), _width(edit, "resized"), _width(edit, "resized"), edit.varint(65_536, "stem-resized-number"))
        for _ in range(_count(edit))
    ]
    projections = [
        (name(), edit.varint(1, "stem-projection-attribute"), _width(edit, "projection"), _width(edit, "projection"))
        for _ in range(_count(edit))
    ]
    settings = [
        (name(), edit.varint(6, "stem-setting-attribute"), edit.varint(65_536, "stem-setting-value"))
        for _ in range(_count(edit))
    ]
    require(bool(removed) or (not entry and flags < 4), "stem-entry-of-nothing")
    require(len(set(removed)) == len(removed), "stem-removed-twice")
    require(len({item[0] for item in resized}) == len(resized), "stem-resized-twice")
    require(len({item[0] for item in projections}) == len(projections), "stem-projection-twice")
    require(len({item[:2] for item in settings}) == len(settings), "stem-setting-twice")
    return {
        "channels": [channel for channel, bit in enumerate(bits) if bit],
        "full_chroma": bool(flags & 1),
        "edge_is_error": bool(flags & 2),
        "inside": bool(flags & 4),
        "map_size": sides,
        "removed": removed,
        "entry": entry,
        "resized": resized,
        "projections": [(item[0], SHORTCUTS[item[1]], *item[2:]) for item in projections],
        "settings": [(item[0], ATTRIBUTES[item[1]], item[2]) for item in settings],
    }


def _names(edit: Items, network: Module | None, is_own: bool, rule: str) -> Callable[[], str]:
    if is_own:
        return edit.text
    assert network is not None
    known = [name for name, _ in network.walk()]
    return lambda: known[edit.varint(len(known) - 1, rule)]


def _count(edit: Items) -> int:
    return edit.varint(4096, "stem-items")


def _positive(edit: Items, most: int, zero: str, limit: str) -> int:
    number = edit.varint(most, limit)
    require(number > 0, zero)
    return number


def _width(edit: Items, of: str) -> int:
    return _positive(edit, 65_536, f"stem-{of}-zero", f"stem-{of}-number")


def _entry(edit: Items) -> list[Any]:
    kind = edit.byte()
    if kind == 0:
        return []
    if kind == 1:
        temperature = edit.float64()
        require(0 < temperature < math.inf, "stem-temperature")
        return ["gate", temperature]
    require(kind == 2, "stem-entry")
    channels = _positive(edit, 65_536, "stem-layer-zero", "stem-layer-number")
    kernel, stride, padding, shuffle = (edit.varint(64, "stem-layer-number") for _ in range(4))
    require(0 not in (kernel, stride, shuffle), "stem-layer-zero")
    require(channels * shuffle**2 <= 65_536, "stem-layer-number")
    return ["layer", channels, kernel, stride, padding, shuffle]


def apply_stem(stem: dict[str, Any], network: Module) -> None:
    modules = dict(network.walk())
    _check_input(network)
    require(not any(tensor.is_kept for _, tensor in network.state()), "stem-fit", "parametrised")
    removed = stem["removed"]
    touched = [*removed, *(item[0] for key in ("resized", "projections", "settings") for item in stem[key])]
    require(all(name in modules for name in touched), "stem-fit", "no such module")
    require("" not in removed, "stem-fit", "the network itself is removed")
    require(
        not any(name.startswith(f"{gone}.") for name in touched for gone in removed), "stem-fit", "goes with another"
    )
    for name, inner, outer, groups in stem["resized"]:
        _check_resized(modules[name], inner, outer, groups)
    for name, attribute, _, _ in stem["projections"]:
        _check_projection(modules[name], attribute)
    for name, attribute, value in stem["settings"]:
        _check_setting(modules[name], attribute, value)
    require(stem["inside"] or not network.has(TRANSFORM), "stem-fit", TRANSFORM)
    type_ = next((tensor.type for _, tensor in network.parameters() if tensor.type in FLOATS), "float32")
    for name, inner, outer, groups in stem["resized"]:
        _resize(modules[name], inner, outer, groups)
    for name, attribute, inner, outer in stem["projections"]:
        sizes = {"in_channels": inner, "out_channels": outer, "kernel_size": [1, 1], "groups": 1, "bias": False}
        new = Module("Sequential")
        new.children = {"0": layer("Conv2d", type_, **sizes), "1": layer("BatchNorm2d", type_, num_features=outer)}
        modules[name].sizes.pop(attribute, None)
        modules[name].children[attribute] = new
    for name, attribute, value in stem["settings"]:
        is_switch = attribute in ("has_shortcut", "use_res_connect")
        is_pair = attribute == "stride" or isinstance(modules[name].sizes[attribute], list)
        modules[name].sizes[attribute] = [value, value] if is_pair else bool(value) if is_switch else value
    owner = network
    for place, name in enumerate(removed):
        new = Module("Identity") if place else _entry_module(stem["entry"], len(stem["channels"]), type_)
        owner = new if stem["inside"] and place == 0 else owner
        _replace(network, modules[name], new)
    _add_transform(owner, len(stem["channels"]))


def _check_input(network: Module) -> None:
    require(not any(module.type == "Transform" for _, module in network.walk()), "stem-fit", "has a transform")


def _add_transform(owner: Module, num_channels: int) -> None:
    buffers = {name: Tensor((num_channels,), is_parameter=False) for name in ("mean", "std")}
    owner.children[TRANSFORM] = Module("Transform", tensors=buffers)


def _check_resized(module: Module, inner: int, outer: int, groups: int) -> None:
    if module.type == "Conv2d":
        require(groups > 0 and inner % groups == 0 and outer % groups == 0, "stem-fit", "groups")
        return
    is_norm = module.type in (*BATCH_NORMS, "GroupNorm")
    is_slope = module.type == "PReLU" and module.sizes["num_parameters"] > 1
    require(groups == 0 and (is_norm or is_slope), "stem-fit", "no layer of channels")
    if module.type == "GroupNorm":
        divisor = module.sizes["num_groups"]
        require(inner % divisor == 0 and outer % divisor == 0, "stem-fit", "groups")


def _resize(module: Module, inner: int, outer: int, groups: int) -> None:
    if module.type == "Conv2d":
        module.sizes.update(in_channels=inner, out_channels=outer, groups=groups)
    else:
        key = {"GroupNorm": "num_channels", "PReLU": "num_parameters"}.get(module.type, "num_features")
        module.sizes[key] = inner
    for name, shape in shapes_of(module.type, module.sizes).items():
        old = module.tensors[name]
        module.tensors[name] = Tensor(shape, old.is_parameter, old.type)


def _check_projection(block: Module, attribute: str) -> None:
    there = next((name for name in SHORTCUTS if block.has(name)), None)
    require(there == attribute, "stem-fit", "no such shortcut")
    child = block.children.get(attribute)
    is_empty = child is None and block.sizes.get(attribute, 0) is None
    if child is not None:
        is_empty = child.type == "Identity" or (child.type == "Sequential" and not child.children)
    require(is_empty, "stem-fit", "the shortcut is not empty")


def _check_setting(module: Module, attribute: str, value: int) -> None:
    if attribute == "stride":
        require(module.type == "Conv2d", "stem-fit", "a stride of no convolution")
        require(value > 0, "stem-fit", "a stride of 0")
        return
    there = module.sizes.get(attribute)
    if attribute in ("has_shortcut", "use_res_connect"):
        require(isinstance(there, bool), "stem-fit", "no switch")
    else:
        if isinstance(there, list) and len(there) == 2 and there[0] == there[1]:
            there = there[0]
        require(isinstance(there, int) and not isinstance(there, bool) and value > 0, "stem-fit", "no count")


def _entry_module(entry: list[Any], num_channels: int, type_: str) -> Module:
    if not entry:
        return Module("Identity")
    if entry[0] == "gate":
        gate = Module("Gate")
        sizes = {"in_channels": num_channels, "kernel_size": [1, 1]}
        gate.children["mix"] = layer("Conv2d", type_, **sizes, out_channels=num_channels, groups=1, bias=False)
        gate.children["norm"] = layer("BatchNorm2d", type_, num_features=num_channels)
        gate.children["relu"] = Module("ReLU")
        gate.children["logits"] = layer(
            "Conv2d", type_, **sizes, out_channels=2 * num_channels, groups=num_channels, bias=True
        )
        return gate
    _, channels, kernel, stride, _, shuffle = entry
    convolution = layer(
        "Conv2d",
        type_,
        in_channels=num_channels,
        out_channels=channels * shuffle**2,
        kernel_size=[kernel, kernel],
        stride=[stride, stride],
        groups=1,
        bias=True,
    )
    if shuffle == 1:
        return convolution
    return Module("Finer", children={"convolution": convolution, "shuffle": Module("PixelShuffle")})


def _replace(network: Module, old: Module, new: Module) -> None:
    for _, module in list(network.walk()):
        for name, child in module.children.items():
            if child is old:
                module.children[name] = new


# ---- kind 3 ----


def read_prune(edit: Items, network: Module | None, is_own: bool) -> tuple[list[Any], list[Any]]:
    known = [] if network is None else [name for name, _ in network.walk()]
    layers, place = [], -1
    for _ in range(edit.varint(16_384, "prune-layers")):
        if is_own:
            name = edit.text()
        else:
            place += 1 + edit.varint()
            require(place < len(known), "prune-place")
            name = known[place]
        kind = edit.byte()
        require(kind in LAYER_SIZES, "prune-kind", str(kind))
        layers.append((name, kind, [edit.varint() for _ in LAYER_SIZES[kind]]))
    tensors = [(edit.text(), edit.shape()) for _ in range(edit.varint(16_384, "prune-tensors"))]
    require(len({entry[0] for entry in layers}) == len(layers), "prune-names")
    require(len({entry[0] for entry in tensors}) == len(tensors), "prune-tensor-names")
    return layers, tensors


def kind_of(module: Module) -> int:
    """Return the kind of layer that a module is, 0 for none."""
    if module.type in (*CONVOLUTIONS, *TRANSPOSED):
        return 1
    if module.type in ("LayerNorm", "RMSNorm"):
        return 4 if len(module.sizes["normalized_shape"]) == 1 else 0
    found = {"Linear": 2, "GroupNorm": 5, "PReLU": 6, "Embedding": 7, "Conv1D": 9}.get(module.type, 0)
    if module.type in BATCH_NORMS:
        return 3
    pads = all(type(module.sizes.get(name)) is int for name in LAYER_SIZES[8])
    return 8 if not found and pads and not module.tensors and not module.children else found


def sizes_with(module: Module, kind: int, sizes: list[int]) -> dict[str, Any]:
    new = dict(zip(LAYER_SIZES[kind], sizes, strict=True))
    return {**module.sizes, **({"normalized_shape": sizes} if kind == 4 else new)}


def apply_prune(layers: list[Any], tensors: list[Any], network: Module) -> None:
    modules = dict(network.walk())
    widest = max((size for _, tensor in network.state() for size in tensor.shape), default=0)
    new_shapes: dict[int, tuple[Tensor, set[tuple[int, ...]]]] = {}
    for name, kind, sizes in layers:
        require(name in modules, "prune-fit", f"no layer {name}")
        module = modules[name]
        require(kind_of(module) == kind, "prune-fit", f"{name} is of another kind")
        require(not any(tensor.is_kept for tensor in module.tensors.values()), "prune-fit", "parametrised")
        _check_sizes(module, kind, sizes, widest)
        for own, shape in shapes_of(module.type, sizes_with(module, kind, sizes)).items():
            tensor = module.tensors[own]
            new_shapes.setdefault(id(tensor), (tensor, set()))[1].add(shape)
    free = _free_tensors(modules)
    for name, shape in tensors:
        require(name in free, "prune-fit", f"no tensor {name} outside of layers")
        old = free[name].shape
        fits = len(shape) == len(old) and all(1 <= new <= size for new, size in zip(shape, old, strict=True))
        require(fits, "prune-fit", f"the shape of {name}")
        new_shapes.setdefault(id(free[name]), (free[name], set()))[1].add(shape)
    require(all(len(shapes) == 1 for _, shapes in new_shapes.values()), "prune-fit", "tied tensors differ")
    for name, kind, sizes in layers:
        modules[name].sizes = sizes_with(modules[name], kind, sizes)
    for tensor, shapes in new_shapes.values():
        (tensor.shape,) = shapes


def _check_sizes(module: Module, kind: int, sizes: list[int], widest: int) -> None:
    if kind == 8:
        require(all(size <= widest for size in sizes), "prune-fit", "pads more than the widest tensor")
        return
    own = module.sizes["normalized_shape"] if kind == 4 else [module.sizes[name] for name in LAYER_SIZES[kind]]
    require(all(1 <= new <= old for new, old in zip(sizes, own, strict=True)), "prune-fit", "a size grows or is 0")
    if kind == 1:
        require(sizes[0] % sizes[2] == 0 and sizes[1] % sizes[2] == 0, "prune-fit", "groups")
        before = shapes_of(module.type, module.sizes)["weight"]
        after = shapes_of(module.type, sizes_with(module, kind, sizes))["weight"]
        require(all(new <= old for new, old in zip(after, before, strict=True)), "prune-fit", "a weight grows")
    if kind == 5:
        require(sizes[1] % sizes[0] == 0, "prune-fit", "groups")


def _free_tensors(modules: dict[str, Module]) -> dict[str, Tensor]:
    """Tensors that no layer of the table holds as its own."""
    free = {}
    for name, module in modules.items():
        own = shapes_of(module.type, module.sizes) if kind_of(module) else {}
        for attribute, tensor in module.tensors.items():
            if attribute not in own or attribute == "num_batches_tracked":
                free[f"{name}.{attribute}" if name else attribute] = tensor
    return free


# ---- kind 4 ----


def read_ycbcr(edit: Items) -> list[int]:
    sides = [edit.varint(8192, "ycbcr-size") for _ in range(2)]
    require(0 not in sides, "ycbcr-zero")
    return sides


def apply_ycbcr(network: Module) -> None:
    require(not any(module.type == "Transform" for _, module in network.walk()), "ycbcr-fit", "has a transform")
    require(not network.has(TRANSFORM), "ycbcr-fit", f"has {TRANSFORM}")
    require(network.type != "Sequential", "ycbcr-fit", "runs all its children")
    _add_transform(network, 3)


__all__ = [
    "Kept",
    "apply_prune",
    "apply_regularize",
    "apply_stem",
    "apply_ycbcr",
    "networks",
    "read_prune",
    "read_regularize",
    "read_stem",
    "read_ycbcr",
]
