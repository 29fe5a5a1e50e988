"""Published checkpoints: read within bounds, and poured into networks that are as wide as the file says."""

import zipfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tailcut.channels.layer_kinds import Convolution, LayerKind, layer_kind
from tailcut.channels.pruning.edit import NarrowedLayer, PruneEdit
from tailcut.errors import ArgumentError, DataError, LimitError, ModelMismatchError, StructureError
from tailcut.format.conversion.checkpoints import check_is_file, expanded_bytes, fill_in, read_tensors
from tailcut.structure import add_edit, example_shape, in_evaluation
from tailcut.structure.wire import Value

Tensors = Mapping[str, Tensor]
Arguments = Mapping[str, Value]
MAX_CHECKPOINT_BYTES = 1 << 30


@dataclass(frozen=True)
class Layout:
    """A way in which a project names the tensors of a network.

    Attributes:
        model: the registered family.
        marker: a name that only this layout has.
        rename: their name of a tensor -> ours.
        arguments: of the family, derived from the tensors' shapes.
    """

    model: str
    marker: str
    rename: Callable[[str], str]
    arguments: Callable[[Tensors], dict[str, Value]]


def read_checkpoint(path: str | Path) -> Tensors:
    """Tensors by name of a torch or safetensors file, as `read_tensors` reads them, but of at most a GiB.

    Raises:
        LimitError: the file, or what it holds, is larger.
        DataError: it cannot be read, or holds other things than tensors; no code in it is run.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    check_is_file(path)
    try:
        _check_bytes(path, max(path.stat().st_size, expanded_bytes(path)))
    except zipfile.BadZipFile as error:
        raise DataError(f"cannot read {path}: it is damaged: {error}") from error
    tensors = read_tensors(path)
    # A tensor may be one number seen many times: its shape says more than the file holds.
    _check_bytes(path, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
    return tensors


def find_layout(layouts: tuple[Layout, ...], tensors: Tensors, path: str | Path, model: str | None) -> Layout:
    """Return the layout that the names of tensors follow.

    Args:
        layouts: those of a project.
        tensors: of the file.
        path: of the file, for messages.
        model: the family that the user expects; any when None.

    Raises:
        ModelMismatchError: none, or that of another family.
    """
    found = [layout for layout in layouts if layout.marker in tensors]
    if not found:
        known = ", ".join(dict.fromkeys(layout.model for layout in layouts))
        first = ", ".join(list(tensors)[:3])
        raise ModelMismatchError(
            f"{path} is not laid out as the published code for any of {known}; its first tensors are {first}"
        )
    if model is not None and model not in (layout.model for layout in found):
        raise ModelMismatchError(f"{path} holds the tensors of {found[0].model!r}, not of {model!r}")
    return next(layout for layout in found if model in (None, layout.model))


def renamed(tensors: Tensors, rename: Callable[[str], str], path: str | Path) -> dict[str, Tensor]:
    """Return the tensors under our names.

    Raises:
        ModelMismatchError: two of them would have the same name.
    """
    names = {name: rename(name) for name in tensors}
    if len(set(names.values())) < len(names):
        raise ModelMismatchError(f"{path}: two tensors would have the same name here; it is of another layout")
    return {names[name]: tensor for name, tensor in tensors.items()}


def num_classes(tensors: Tensors, name: str) -> int:
    """Rows of the weight of the last linear layer.

    Raises:
        ModelMismatchError: there is no such weight.
    """
    return size_of(tensors, name, 0)


def size_of(tensors: Tensors, name: str, axis: int) -> int:
    """Size of a tensor along an axis.

    Raises:
        ModelMismatchError: there is no such tensor, or it has too few axes.
    """
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim <= axis:
        raise ModelMismatchError(f"expected a tensor {name!r} of at least {axis + 1} axes; the checkpoint has none")
    return tensor.shape[axis]


def narrow_and_fill(network: nn.Module, tensors: Tensors, path: str | Path) -> nn.Module:
    """Make a network as narrow as the tensors of a pruned one and fill it in (changes the module).

    Args:
        network: registered, as wide as before pruning.
        tensors: by the network's own names.
        path: where they come from, for messages.

    Returns:
        The network, in evaluation mode; what is narrower is recorded as by `prune`.

    Raises:
        ModelMismatchError: names differ, a layer would be wider, or the layers do not fit together.
    """
    layers = []
    for name, module in network.named_modules():
        kind = layer_kind(module)
        weight = tensors.get(f"{name}.weight" if name else "weight")
        if kind is None or weight is None or weight.ndim == 0:
            continue
        sizes = _sizes(kind, module, weight)
        if sizes != kind.sizes(module):
            layers.append(NarrowedLayer(name, kind.number, tuple(sizes[key] for key in kind.attributes)))
    if layers:
        edit = PruneEdit(tuple(layers))
        try:
            edit.check(network)
        except StructureError as error:
            raise ModelMismatchError(f"{path} is no pruned form of the network: {error}") from error
        edit.apply(network)
        add_edit(network, edit)
    fill_in(network, tensors, path)
    _try(network, path)
    return network.eval()


def expect_no_arguments_twice(own: Arguments, given: Arguments) -> dict[str, Value]:
    """Return the arguments derived from the tensors, and the user's for the others.

    Raises:
        ArgumentError: the user's value contradicts the tensors.
    """
    for key, value in given.items():
        if key in own and key != "normalize" and own[key] != value:
            raise ArgumentError(f"the checkpoint says {key} = {own[key]!r}, the argument says {value!r}: leave it out")
    return {**own, **given}


def _check_bytes(path: Path, num_bytes: int) -> None:
    if num_bytes > MAX_CHECKPOINT_BYTES:
        raise LimitError(f"{path} holds {num_bytes:,} bytes, at most {MAX_CHECKPOINT_BYTES:,} are read")


def _sizes(kind: LayerKind, module: nn.Module, weight: Tensor) -> dict[str, int]:
    inner, outer = weight.shape[min(1, weight.ndim - 1)], weight.shape[0]
    if isinstance(kind, Convolution):
        own = kind.sizes(module)
        inner = outer if own["groups"] == own["in_channels"] > 1 else inner * own["groups"]
    return kind.narrowed(module, inner, outer)


def _try(network: nn.Module, path: str | Path) -> None:
    """Run a copy without numbers: widths of layers that follow one another must agree."""
    shape = example_shape(network)
    if shape is None:
        return
    trial = in_evaluation(deepcopy(network).to("meta"))
    try:
        with torch.no_grad():
            trial(torch.empty(shape, device="meta"))
    except (RuntimeError, ValueError) as error:
        raise ModelMismatchError(f"{path}: its layers do not fit together: {error}") from error
