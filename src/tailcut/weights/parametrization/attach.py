"""Attachment and removal of truncations on modules, and the hooks that keep state dicts free of tails."""

import logging
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tailcut.errors import StructureError
from tailcut.weights.layers import Candidate, find_layer
from tailcut.weights.parametrization.truncation import Truncation, compute_type, this_thread

_log = logging.getLogger(__name__)

# The order of a module's parameters before the first of them became coefficients, for the way back.
_ORDER = "_tailcut_parameter_order"
_DDP_IGNORED = "_ddp_params_and_buffers_to_ignore"
# Beside each vector in a state dict: what its numbers mean.
_META = "tailcut"


def attach(candidate: Candidate, truncation: Truncation, *, blank: bool = False) -> None:
    """Make the parameter a vector of coefficients (changes the modules that own it).

    The `nn.Parameter` object stays the same, so that an optimiser that holds it keeps working; tied parameters share
    one vector and one truncation.

    Args:
        candidate: the parameter and its owners.
        truncation: its parametrisation.
        blank: leave the coefficients zero (they will be filled in) instead of transforming the weight.
    """
    candidate.parameter.grad = None  # it has the shape of the weight
    truncation.attaching = "blank" if blank else "project"
    for module, attribute in candidate.owners:
        module.__dict__.setdefault(_ORDER, tuple(module._parameters))
        if parametrize.is_parametrized(module):
            _take_own_class(module)
        parametrize.register_parametrization(module, attribute, truncation, unsafe=True)
        if isinstance(module, nn.RNNBase):
            compute_flat_weights(module)
        holder = _holder(module, attribute)
        holder.register_state_dict_post_hook(_trim_to_kept)
        holder.register_load_state_dict_pre_hook(_adopt_length)
        holder.register_load_state_dict_post_hook(_follow_vector)
        type(module).__getstate__ = _refuse_pickle  # type: ignore[method-assign]
        truncation.attaching = "adopt"
    truncation.attaching = "project"


def detach(module: nn.Module, attribute: str, weight: nn.Parameter) -> None:
    """Replace the parametrisation of one attribute by a plain parameter (changes the module)."""
    if not parametrize.is_parametrized(module, attribute):
        return  # the module occurs in the network twice
    kind = type(module)
    _take_own_class(module)
    delattr(type(module), attribute)
    lists = module.parametrizations
    if not isinstance(lists, nn.ModuleDict):
        raise StructureError(f"{kind.__name__}.parametrizations is no ModuleDict; the module was changed by hand")
    del lists[attribute]
    module.register_parameter(attribute, weight)
    order = module.__dict__.get(_ORDER, ())
    module._parameters = {name: module._parameters[name] for name in order if name in module._parameters} | (
        module._parameters
    )
    if len(lists) == 0:
        module.__dict__.pop(_ORDER, None)
        del module._modules["parametrizations"]
        module.__class__ = kind.__bases__[0]
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()  # the list is one of plain parameters again


def finish_attaching(model: nn.Module) -> None:
    """Install the hooks and attributes that a network needs after truncations were attached (changes the model)."""
    # Layers that read weights several times have them computed once per forward.
    for module in model.modules():
        layer = find_layer(module)
        if layer is not None and layer.once_per_forward and _truncations(module):
            module.register_forward_pre_hook(_hold_weights)
            module.register_forward_hook(_release_weights, always_call=True)
    if _tie_again not in model._load_state_dict_post_hooks.values():
        model.register_load_state_dict_post_hook(_tie_again)
    # DDP sends all buffers from the first process to the others in every forward: it is spared the constants, also
    # those that come with another length or device, since a network that is being loaded has none of them yet.
    constants = [
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, Truncation)
        for name in module.constant_names()
    ]
    model.__dict__[_DDP_IGNORED] = list(dict.fromkeys([*model.__dict__.get(_DDP_IGNORED, []), *constants]))


def finish_detaching(model: nn.Module) -> None:
    """Undo `finish_attaching` once all truncations are off (changes hooks and attributes)."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for number in [key for key, hook in hooks.items() if is_own_hook(hook)]:
                del hooks[number]
                module._forward_hooks_always_called.pop(number, None)
    after_loading = model._load_state_dict_post_hooks
    for number in [key for key, hook in after_loading.items() if hook is _tie_again]:
        del after_loading[number]
    names = [name for name in model.__dict__.pop(_DDP_IGNORED, []) if "parametrizations" not in name.split(".")]
    if names:
        model.__dict__[_DDP_IGNORED] = names


def _tie_again(model: nn.Module, incompatible_keys: Any) -> None:
    """Give tied weights one vector again: `to_empty` and loading with assign=True make one for each (changes holders).

    They all have the numbers of the state dict, where each has its own name.
    """
    first: dict[int, nn.Parameter] = {}
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], Truncation):
            vector = first.setdefault(id(module[0]), module.original)  # type: ignore[arg-type]
            if module.original is not vector:
                module.original = vector


def is_own_hook(hook: object) -> bool:
    """Return whether a forward hook of a module was installed here."""
    return hook in (_hold_weights, _release_weights)


def set_length(holder: parametrize.ParametrizationList, truncation: Truncation, length: int) -> None:
    """Give the vector `length` entries: the first ones are kept, new ones are zero (changes both)."""
    vector = holder.original
    if not isinstance(vector, nn.Parameter):
        raise StructureError("the vector of a regularised parameter was replaced by something else")
    with torch.inference_mode(False), torch.no_grad():
        resized, gradient = resized_vector(vector, length), vector.grad
        vector.grad = None
        # Not `vector.data = resized`: as long as an old loss is referred to somewhere, the next backward would
        # meet its gradient accumulator, which expects gradients of the old shape. `set_` parts with it.
        vector.set_(resized)  # type: ignore[call-overload]
        vector.grad = None if gradient is None else resized_vector(gradient, length)  # what was gathered so far counts
    truncation.resize(length)


def resized_vector(vector: Tensor, length: int) -> Tensor:
    """Return a copy that is cut, or filled up with zeros."""
    with torch.inference_mode(False):
        resized = vector.new_zeros(length)
        shared = min(length, vector.shape[0])
        resized[:shared] = vector[:shared]
        return resized


def _take_own_class(module: nn.Module) -> None:
    """Give a parametrised module a class that no copy of it shares (changes the module).

    Copies share the class that torch made for a module's properties: a property that one of them gets or loses there
    would hide, or bare, the parameter of all others.
    """
    kind = type(module)
    module.__class__ = type(kind.__name__, kind.__bases__, dict(kind.__dict__))


def _holder(module: nn.Module, attribute: str) -> parametrize.ParametrizationList:
    lists = module.parametrizations
    holder = lists[attribute] if isinstance(lists, nn.ModuleDict) else None
    if not isinstance(holder, parametrize.ParametrizationList):
        raise StructureError(f"{type(module).__name__}.{attribute} is not parametrised")
    return holder


def _truncations(module: nn.Module) -> list[tuple[Truncation, torch.Tensor]]:
    lists = [part for part in module.modules() if isinstance(part, parametrize.ParametrizationList)]
    return [(part[0], part.original) for part in lists if isinstance(part[0], Truncation)]


def _hold_weights(module: nn.Module, args: Any) -> None:
    if torch.compiler.is_exporting():
        return  # an exported program has no place for what is held, and finds common products itself
    for truncation, vector in _truncations(module):
        truncation.held = None  # an interrupted forward left its own
        truncation.held = this_thread(), truncation(vector)


def _release_weights(module: nn.Module, args: Any, output: Any) -> None:
    for truncation, _ in _truncations(module):
        held = truncation.held
        if held is not None and held[0] == this_thread():
            truncation.held = None


def _trim_to_kept(holder: nn.Module, state: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    truncation = holder[0]  # type: ignore[index]
    key = f"{prefix}original"
    # Layers that write their state themselves, as those of torch_geometric do, write the computed weight too.
    state.pop(_weight_of(key) or "", None)
    local_metadata[_META] = _meaning(truncation)
    if truncation.num_kept < truncation.length and key in state:
        # A copy: a slice would be saved together with the storage that holds the tail.
        state[key] = state[key][: truncation.num_kept].clone()


def meaning_of(state: Mapping[str, Any], name: str) -> dict[str, list[Any]]:
    """Return the `regularize` settings that a vector of a state dict was made with; empty if it holds none."""
    meaning = getattr(state, "_metadata", {}).get(name.rpartition(".")[0], {}).get(_META)
    known = meaning if isinstance(meaning, Mapping) else {}
    return {key: list(known[key]) for key in ("axes", "order_weights") if isinstance(known.get(key), (tuple, list))}


def _meaning(truncation: Truncation) -> dict[str, tuple[float, ...]]:
    return {"shape": truncation.shape, "axes": truncation.axes, "order_weights": truncation.order_weights}


def _adopt_length(
    holder: nn.Module,
    state: dict[str, Any],
    prefix: str,
    local_metadata: Mapping[str, Any],
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_messages: list[str],
) -> None:
    """Give the vector the length that the checkpoint has; what cannot fit is left to torch's own message.

    The same numbers mean another weight for another shape, other axes or order weights: if the state dict holds
    these (it does unless it was made into a plain dict), they must be the same.
    """
    truncation = holder[0]  # type: ignore[index]
    stored, own = local_metadata.get(_META), _meaning(truncation)
    if stored is not None and stored != own:
        error_messages.append(f"{prefix}original holds coefficients of {stored}, the model's are of {own}")
        return
    vector = state.get(f"{prefix}original")
    if vector is None:
        _hint_at_dense_weight(f"{prefix}original", missing_keys, unexpected_keys)
    if vector is None or vector.ndim != 1 or not 1 <= vector.shape[0] <= torch.Size(truncation.shape).numel():
        return
    lengths = {truncation.length, truncation.num_kept, len(holder.original)}  # type: ignore[arg-type]
    if lengths != {vector.shape[0]}:
        set_length(holder, truncation, vector.shape[0])  # type: ignore[arg-type]


def _hint_at_dense_weight(vector: str, missing_keys: list[str], unexpected_keys: list[str]) -> None:
    """Say once per call of `load_state_dict` that the state dict has weights where the network has coefficients.

    Logged, not raised: torch passes hooks strict=True even with strict=False, which must keep working, and raises its
    own error about the keys with strict=True.
    """
    weight = _weight_of(vector)
    # torch loads a module before its children, and these in order: earlier vectors are in `missing_keys` already.
    if weight in unexpected_keys and not any(_weight_of(key) in unexpected_keys for key in missing_keys):
        _log.warning(
            f"the state dict has plain weights ({weight}) where the network keeps coefficients; load it first, then "
            "call regularize (a regularised network is kept whole by tailcut.save and tailcut.load)"
        )


def _weight_of(key: str) -> str | None:
    """Return the key that a vector's weight has in the plain network; None if the key is not a vector's."""
    *path, lists, attribute, last = ["", "", *key.split(".")]
    if (lists, last) != ("parametrizations", "original"):
        return None
    return ".".join([*path[2:], attribute])


def _follow_vector(holder: nn.Module, incompatible_keys: Any) -> None:
    """Move the truncation's buffers to the vector's device and type: loading with assign=True may have changed it."""
    truncation, vector = holder[0], holder.original  # type: ignore[index]
    truncation.held = None
    dtype = compute_type(vector.dtype)  # type: ignore[arg-type]
    if vector.device != truncation.positions.device or dtype != truncation.basis_type:
        truncation.resize(truncation.length, device=vector.device, dtype=dtype)


def _refuse_pickle(module: nn.Module) -> NoReturn:
    if not _truncations(module):  # what is left is another parametrisation, of torch or of the user
        raise StructureError(
            f"a {type(module).__name__} with a parametrisation cannot be pickled: use "
            "torch.save(model.state_dict(), ...), or torch.nn.utils.parametrize.remove_parametrizations"
        )
    raise StructureError(
        f"a regularised {type(module).__name__} cannot be pickled: use tailcut.save(model, 'NAME.tailcut'), or "
        "torch.save(model.state_dict(), ...) for a checkpoint, or pickle tailcut.to_dense(model)"
    )


_LIST = "_flat_weights"


def compute_flat_weights(module: nn.RNNBase) -> None:
    """Have the list made of the attributes (changes the module's class, which must be its own, and its attributes)."""
    kind: Any = type(module)
    setattr(kind, _LIST, property(_weights, _ignore))
    # It would put the weights into one piece of memory, where cuDNN likes to have them: but these are results.
    kind.flatten_parameters = _leave
    module.__dict__.pop(_LIST, None)


def _weights(module: nn.RNNBase) -> list[Tensor | None]:
    return [getattr(module, name, None) for name in module._flat_weights_names]


def _ignore(module: nn.RNNBase, weights: list[Tensor | None]) -> None:
    """Ignore the weights that torch sets when a module is moved or an attribute changes: they are there already."""


def _leave(module: nn.RNNBase) -> None:
    """Do nothing where torch flattens each new list of weights."""
