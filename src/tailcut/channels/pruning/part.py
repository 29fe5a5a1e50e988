"""`prune_part`: one module of a network is pruned, where the rest cannot be followed."""

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from tailcut.channels.pruning.edit import PruneEdit, record_edit
from tailcut.channels.pruning.prune import Rates, prune
from tailcut.channels.pruning.report import PruneReport
from tailcut.channels.scoring.scores import Scores
from tailcut.errors import ArgumentError
from tailcut.model_inputs import InputTensors
from tailcut.structure import record_of, set_record
from tailcut.structure.record import Record


def prune_part(
    model: nn.Module,
    part: str,
    example_input: InputTensors,
    scores: Mapping[str, Tensor],
    rates: Rates | None = None,
    **settings: Any,
) -> PruneReport:
    """Remove the channels with the lowest scores from one module of a network. Changes the network.

    For a network whose forward cannot be followed as a whole, such as a detector, whose heads work on as many regions
    as there are: its backbone can. What the module gives keeps its channels. The cut is recorded on the network, so
    that `save` and `load` restore it.

    Args:
        model: the network.
        part: name of the module, for example "backbone".
        example_input: what the module takes.
        scores: as for `prune`, by the names of layers in the whole network; those elsewhere do not count.
        rates: as for `prune`; a dict by the names in the whole network.
        settings: further arguments of `prune`. `ignore` is patterns on names within the module.

    Returns:
        The report of `prune` on the module; names are those within it.

    Raises:
        ArgumentError: there is no such module, it shares parameters or layers with the rest of the network, or as
            `prune`.
        StructureError: as `prune`.
    """
    module = dict(model.named_modules()).get(part) if part else None
    if module is None:
        raise ArgumentError(f"the network has no module {part!r} to prune")
    prefix = f"{part}."
    _check_apart(model, module, part)
    if isinstance(rates, Mapping):
        outside = [name for name in rates if not name.startswith(prefix)]
        if outside:
            raise ArgumentError(f"a rate is given for {outside[0]}, which is no layer of {part}")
        rates = {name.removeprefix(prefix): rate for name, rate in rates.items()}
    own: Mapping[str, Tensor] = {name.removeprefix(prefix): x for name, x in scores.items() if name.startswith(prefix)}
    if isinstance(scores, Scores):
        fallback = [name.removeprefix(prefix) for name in scores.fallback if name.startswith(prefix)]
        own = Scores(own, method=scores.method, fallback=fallback)
    kept = record_of(module)
    set_record(module, Record(None, []))
    try:
        report = prune(module, example_input, own, rates, **settings)
        edits = record_of(module).edits
    finally:
        set_record(module, kept)
    for cut in cast(list[PruneEdit], edits):  # none where nothing was removed
        layers = tuple(layer._replace(name=prefix + layer.name) for layer in cut.layers)
        record_edit(model, PruneEdit(layers, tuple(x._replace(name=prefix + x.name) for x in cut.tensors)))
    return report


def _check_apart(model: nn.Module, module: nn.Module, part: str) -> None:
    """Raise `ArgumentError` if a layer or tensor of the part is also used outside of it, where nothing is cut."""
    within = {
        id(item): f"{part}.{name}"
        for items in (module.named_modules(), module.named_parameters(), module.named_buffers())
        for name, item in items
        if name
    }
    for name, other in model.named_modules(remove_duplicate=False):
        if f"{name}.".startswith(f"{part}."):
            continue
        own = {f"{name}.{key}".lstrip("."): x for key, x in (*other._parameters.items(), *other._buffers.items())}
        for path, item in {name: other, **own}.items():
            if item is not None and id(item) in within:
                raise ArgumentError(
                    f"{within[id(item)]} is also {path}, outside of {part}, and would be cut there too: prune the "
                    "network as a whole, or give each a copy of its own"
                )
