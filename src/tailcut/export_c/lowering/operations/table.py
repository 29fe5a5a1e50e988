"""All operations of torch that C code knows, by name."""

from collections.abc import Callable, Mapping

from tailcut.export_c.lowering.operations import (
    activations,
    attention,
    layers,
    norms,
    permutation,
    pointwise,
    recurrent,
    resizing,
    shapes,
)
from tailcut.export_c.program.program import Value

HANDLERS: Mapping[str, Callable[..., Value]] = {
    name: handler
    for module in (activations, attention, layers, norms, permutation, pointwise, recurrent, resizing, shapes)
    for name, handler in module.HANDLERS.items()
}
