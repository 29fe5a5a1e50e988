"""The sensitivity that steps were chosen by, and the network that it was of, to follow both in training."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from tailcut.format.encoder.sensitivity import Sensitivity

LEAST_STEP = 2.0**-17
"""The finest step of a tensor, in parts of its largest number: one that is four times as fine could not be coded."""

LARGEST_LOG = 128
"""Base-2 logarithms of variances are smaller than this."""


@dataclass(frozen=True)
class Reference:
    """A sensitivity, and the size of the numbers when it was measured.

    Attributes:
        sensitivity: in units in which a step of 1 is the network's.
        usual: name -> curvature by magnitudes alone, which falls with the square of a tensor's numbers.
        log_steps: base-2 logarithms of the steps, (tensors,).
        log_sizes: base-2 logarithms of the root mean squares of the trained numbers, (tensors,).
    """

    sensitivity: Sensitivity
    usual: Mapping[str, float]
    log_steps: Tensor
    log_sizes: Tensor

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values; blocks and transforms follow from the network."""
        found = self.sensitivity
        return {
            "curvature": dict(found.curvature),
            "log_curvature": dict(found.log_curvature),
            "usual": dict(self.usual),
            "log_steps": self.log_steps,
            "log_sizes": self.log_sizes,
        }

    def restored(self, state: dict[str, Any]) -> "Reference":
        """Return the reference whose state this is, on the device of this one."""
        found = replace(self.sensitivity, curvature=state["curvature"], log_curvature=state["log_curvature"])
        log_steps, log_sizes = (state[name].to(self.log_steps.device) for name in ("log_steps", "log_sizes"))
        return Reference(found, state["usual"], log_steps, log_sizes)


def codable(sensitivity: Sensitivity, values: Mapping[str, Tensor]) -> Sensitivity:
    """Return the sensitivity without steps that are too fine to be coded, whatever the transform of the values."""
    curvature = dict(sensitivity.curvature)
    for name in curvature.keys() & values.keys():
        norm = float(values[name].detach().double().norm())
        if norm > 0:
            curvature[name] = min(curvature[name], (LEAST_STEP * norm) ** -2)
    most = (LEAST_STEP * LARGEST_LOG) ** -2
    logs = {name: min(size, most) for name, size in sensitivity.log_curvature.items()}
    return replace(sensitivity, curvature=curvature, log_curvature=logs)


def times(sensitivity: Sensitivity, factor: float) -> Sensitivity:
    """Return the sensitivity with that factor on every curvature; a factor of 4 halves all steps."""
    return replace(
        sensitivity,
        curvature={name: factor * size for name, size in sensitivity.curvature.items()},
        log_curvature={name: factor * size for name, size in sensitivity.log_curvature.items()},
    )
