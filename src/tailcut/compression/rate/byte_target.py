"""The weight of the bytes in a loss, controlled so that a run ends at the size that was asked for."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

FALL = 0.4
"""The part of the run over which the goal falls."""

MARGIN = 0.985
"""The goal at the end, in parts of the bytes that are allowed."""

GAIN = 0.05
"""How fast the weight follows the distance to the goal, per step: the network takes about a hundred to follow it."""

PROPORTION = 4.0
"""How much it answers the distance at once, which keeps it from swinging about the goal."""

FIRST_WEIGHT = 3e-5
"""The loss that a byte is worth at the start."""

CODING_INTERVAL = 100
"""Steps after which the estimate is compared with the coder of the file again."""


@dataclass
class ByteTarget:
    """Controller of the weight of the bytes in the loss.

    Attributes:
        start_bytes: the goal at the start.
        target_bytes: that at the end, less a margin.
        num_steps: of the whole run.
        num_done: steps so far.
        weight: the loss that a byte is worth at the goal.
        overhead: bytes of the file that the estimate does not see.
        num_bytes: of the whole file, as estimated in the latest step.
    """

    start_bytes: float
    target_bytes: int
    num_steps: int
    num_done: int = 0
    weight: float = FIRST_WEIGHT
    overhead: float = 0.0
    num_bytes: float = 0.0

    @property
    def goal(self) -> float:
        """The bytes that the network should have now: they fall geometrically, and stay."""
        part = min(1.0, self.num_done / (FALL * self.num_steps))
        return float(self.start_bytes ** (1 - part) * (MARGIN * self.target_bytes) ** part)

    def follow(self, estimate: float, count: Callable[[], int]) -> None:
        """Adapt the weight to the estimate of a step.

        Args:
            estimate: bytes of the trained numbers.
            count: gives the bytes of the whole file; asked now and then.
        """
        if self.num_done % CODING_INTERVAL == 0:
            self.overhead = count() - estimate
        self.num_bytes = estimate + self.overhead
        self.weight *= math.exp(GAIN * self.distance)
        self.num_done += 1

    @property
    def distance(self) -> float:
        """Distance from the goal, in parts of it, -0.5 to 1."""
        return min(1.0, max(-0.5, self.num_bytes / self.goal - 1))

    @property
    def price(self) -> float:
        """The loss that a byte is worth in this step."""
        return self.weight * math.exp(PROPORTION * self.distance)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` gave."""
        for name, value in state.items():
            setattr(self, name, type(getattr(self, name))(value))
