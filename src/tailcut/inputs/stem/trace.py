"""Execution order of modules, recorded by hooks in one forward of a copy."""

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError, StructureError, first_line
from tailcut.structure import in_evaluation


@dataclass
class ModuleTrace:
    """One forward of a network.

    Attributes:
        starts: module -> number of the event at which each of its calls began.
        ends: the same for their ends.
        inputs: module -> shape of its input in its first call, if that was one tensor.
        outputs: module -> shape of its output in its first call, if that was a tensor.
    """

    starts: dict[str, list[int]] = field(default_factory=dict)
    ends: dict[str, list[int]] = field(default_factory=dict)
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def unfinished(self) -> str:
        """Return the innermost module whose last call did not end, "" for the network itself."""
        started = {name: times[-1] for name, times in self.starts.items()}
        open_ones = [name for name, start in started.items() if start > max(self.ends.get(name, [0]))]
        return max(open_ones, key=started.__getitem__, default="")

    def keeps_shape(self, name: str) -> bool:
        """Return whether the module's output has the shape of its input."""
        return name in self.inputs and name in self.outputs and self.inputs[name] == self.outputs[name]


def trial_copy(model: nn.Module) -> nn.Module:
    """Return a copy of `model` in evaluation mode for trial changes; the model is not changed.

    Raises:
        ArgumentError: it cannot be copied.
    """
    try:
        return in_evaluation(copy.deepcopy(model))
    except Exception as error:
        raise ArgumentError(f"the network cannot be copied, so a change of it cannot be tried: {error}") from error


def run(
    model: nn.Module, x: Tensor, *, what: str, advise: Callable[[ModuleTrace], str] = lambda trace: ""
) -> ModuleTrace:
    """Run `model`, in its mode, and watch its modules; the model is not changed.

    Args:
        model: a copy that nobody else uses.
        x: its input.
        what: what the message of an error says of the input.
        advise: what the message says at its end, of a forward that failed.

    Raises:
        StructureError: the forward fails.
    """
    trace = ModuleTrace()
    with torch.no_grad(), _watched(model, trace):
        try:
            model(x)
        except StructureError:
            raise
        except Exception as error:
            place = trace.unfinished() or "its own forward"
            raise StructureError(
                f"{what} of shape {tuple(x.shape)} does not run through the network, in {place}: "
                f"{first_line(error)}{advise(trace)}"
            ) from error
    return trace


def modules_before(model: nn.Module, trace: ModuleTrace, boundary: str, *, inclusive: bool) -> list[str]:
    """Return the modules that run before `boundary` starts, or until it ends.

    They are in order of their calls, and as few as possible: a parent replaces all its children.

    Args:
        model: the network that was run.
        trace: its forward.
        boundary: a module that ran.
        inclusive: take the boundary itself too.

    Raises:
        StructureError: one of them runs again later.
    """
    names = {id(module): name for name, module in model.named_modules()}
    limit = trace.ends[boundary][0] if inclusive else trace.starts[boundary][0]
    found: list[str] = [boundary] if inclusive else []
    above = ""
    for part in boundary.split("."):
        chain = f"{above}.{part}" if above else part
        for child in model.get_submodule(above).children():
            name = names[id(child)]
            if name != chain:
                found += _early(child, name, names, trace, limit)
        above = chain
    return sorted(dict.fromkeys(found), key=lambda name: trace.starts[name][0])


def _early(module: nn.Module, name: str, names: dict[int, str], trace: ModuleTrace, limit: int) -> Iterator[str]:
    """Yield `module` if it ran before the limit; for one that never runs itself (a list), its children that did."""
    if name not in trace.starts:
        for child in module.children():
            yield from _early(child, names[id(child)], names, trace, limit)
    elif trace.starts[name][0] < limit:
        late = [end for end in trace.ends[name] if end > limit]
        if late:
            raise StructureError(
                f"{name} runs in the stem and again later, so it cannot be replaced; give the stem its own module"
            )
        yield name


@contextmanager
def _watched(model: nn.Module, trace: ModuleTrace) -> Iterator[None]:
    events = itertools.count(1)

    def note(times: list[int], shapes: dict[str, tuple[int, ...]], name: str, x: object) -> None:
        times.append(next(events))
        if len(times) == 1 and isinstance(x, Tensor):
            shapes[name] = tuple(x.shape)

    def before(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0] if len(inputs) == 1 else None
        note(trace.starts.setdefault(name, []), trace.inputs, name, x)

    def after(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        note(trace.ends.setdefault(name, []), trace.outputs, name, output)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(partial(before, name)))
            hooks.enter_context(module.register_forward_hook(partial(after, name)))
        yield
