"""All operations of torch that C code knows, by name."""

from collections.abc import Callable, Mapping

from tailcut.export_c.lowering import layers, pointwise, resizing
from tailcut.export_c.program.program import Value

HANDLERS: Mapping[str, Callable[..., Value]] = {**layers.HANDLERS, **pointwise.HANDLERS, **resizing.HANDLERS}
