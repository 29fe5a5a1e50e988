"""Dynamic tail-truncation (section III.B of the paper): each step cuts a little of the tail."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tailcut.arguments import check_part, check_positive
from tailcut.errors import ArgumentError, StructureError
from tailcut.weights.parametrization.attach import resized_vector, set_length
from tailcut.weights.parametrization.truncated_tensors import TruncatedTensor, truncated_tensors
from tailcut.weights.planning.counts import (
    check_named_counts,
    count_kept,
    count_of,
    round_half_up,
)

SPACINGS = ("paper", "geometric")
PAPER_GAMMA = 0.01


def ratio_target(tensor: TruncatedTensor, keep_ratio: float, min_kept: int) -> int:
    """Return how many coefficients a ratio leaves of a tensor: at least `min_kept`, if it keeps so many.

    Raises:
        ArgumentError: the tensor keeps fewer than the ratio says.
    """
    target = count_kept(tensor.shape, tensor.axes, keep_ratio=keep_ratio, num_kept=None, name=tensor.name)
    _check_reached(tensor, target)
    return min(max(target, min_kept), tensor.num_kept)


def _check_reached(tensor: TruncatedTensor, target: int) -> None:
    if target > tensor.num_kept:
        raise ArgumentError(
            f"{tensor.name} keeps {tensor.num_kept} coefficients, fewer than the target {target}; start with more, or "
            "cut the others alone by num_kept, a table of names and counts"
        )


class TailTruncation:
    """Cuts the tails of a regularised network's tensors step by step, each from its count to its target.

    With spacing "paper" the kept part beta follows the paper's equation, per tensor:
    beta_n = beta_(n-1) - gamma (beta_(n-1) - epsilon), where epsilon is the target; it comes close to the target
    and `finish` cuts the rest. With `num_steps` gamma is chosen so that the last step reaches
    the target. With spacing "geometric" the count is divided by the same factor in each of `num_steps` steps.

    `step` masks: vectors keep their length, so optimisers, DDP, compiled graphs and moving averages go on;
    masked coefficients and their entries in the optimiser's state are set to zero. `compact` shortens the
    vectors; call it where nothing else holds on to their length.

    Args:
        model: a regularised network, or a fused view of one.
        num_kept: the target: coefficients per tensor, or a dict by name (tensors not named stay as they are).
        keep_ratio: the target as a ratio per tensor, instead.
        min_kept: the fewest coefficients that a ratio leaves of a tensor (the paper's code protects 31 to 255); a
            tensor that keeps fewer already stays as it is.
        gamma: the paper's: the part of what is left above the target that each cut takes, above 0 and at most 1;
            0.01 when None. Not with `num_steps`.
        num_steps: after how many steps the target is reached.
        spacing: "paper" or "geometric" (needs `num_steps`).
        optimizer: the optimiser that trains the vectors, whose state is cut along (not LBFGS).

    Raises:
        ArgumentError: a setting is out of range, a target is above what the tensor keeps now, or the optimiser's
            state cannot be cut.
        StructureError: the model is not regularised.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        num_kept: int | Mapping[str, int] | None = None,
        keep_ratio: float | None = None,
        min_kept: int = 1,
        gamma: float | None = None,
        num_steps: int | None = None,
        spacing: str = "paper",
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self._tensors = truncated_tensors(model)
        self._optimizer = optimizer
        self._spacing = spacing
        self._num_steps = None if num_steps is None else check_positive("num_steps", num_steps)
        self._check(model)
        if gamma is not None and num_steps is not None:
            raise ArgumentError("give either gamma (the paper's, of each cut) or num_steps, which determines it")
        gamma = check_part("gamma", PAPER_GAMMA if gamma is None else gamma)
        self.starts = self.num_kept
        self.targets = self._resolve_targets(num_kept, keep_ratio, check_positive("min_kept", min_kept))
        self._gamma = gamma if self._num_steps is None else self._gamma_for(self._num_steps)
        self._steps_done = 0

    @property
    def num_kept(self) -> dict[str, int]:
        """Return the number of coefficients of each tensor now, by name."""
        return {tensor.name: tensor.num_kept for tensor in self._tensors}

    @property
    def finished(self) -> bool:
        """True if every tensor has reached its target."""
        return self.num_kept == self.targets

    def step(self) -> dict[str, int]:
        """Cut once (changes the model and the optimiser's state). Returns the counts by name."""
        self._check_whole()
        self._cut_to({name: self._count_after(name, self._steps_done + 1) for name in self.targets})
        self._steps_done += 1
        return self.num_kept

    def finish(self) -> dict[str, int]:
        """Cut to exactly the targets and shorten the vectors (changes both). Returns the counts by name."""
        self._check_whole()
        self._cut_to(self.targets)
        self.compact()
        return self.num_kept

    def compact(self) -> None:
        """Shorten vectors and optimiser state to what is kept (changes both; lengths of parameters change)."""
        for tensor in self._tensors:
            self._set_length(tensor, tensor.num_kept)

    def compact_when_worthwhile(self, *, factor: float = 2.0) -> bool:
        """Shorten the vectors if one of them is at least `factor` times as long as what it keeps.

        Returns:
            Whether anything was shortened. The answer depends on the counts alone, so that a resumed training
            compacts at the same places as an uninterrupted one.
        """
        worthwhile = any(tensor.truncation.length >= factor * tensor.num_kept for tensor in self._tensors)
        if worthwhile:
            self.compact()
        return worthwhile

    def state_dict(self) -> dict[str, Any]:
        """Return the steps done, the counts and the vector lengths as plain values."""
        return {
            "steps_done": self._steps_done,
            "starts": dict(self.starts),
            "num_kept": self.num_kept,
            "lengths": {tensor.name: tensor.truncation.length for tensor in self._tensors},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state` (changes the model): vectors get their lengths back, masked tails are zero.

        Load the model's state before and the optimiser's after (`load_optimizer_state_dict`).

        Raises:
            StructureError: the state is of other tensors, or none of a schedule.
        """
        missing = [key for key in ("lengths", "num_kept", "starts", "steps_done") if key not in state]
        if missing:
            raise StructureError(f"expected what TailTruncation.state_dict gave, got a state without {missing[0]!r}")
        if set(state["lengths"]) != set(self.targets):
            raise StructureError(
                f"the schedule's state is of {sorted(state['lengths'])}, the model has {sorted(self.targets)}"
            )
        self._steps_done = int(state["steps_done"])
        self.starts = {name: int(count) for name, count in state["starts"].items()}
        if self._num_steps is not None:
            self._gamma = self._gamma_for(self._num_steps)
        for tensor in self._tensors:
            self._set_length(tensor, int(state["lengths"][tensor.name]))
            if state["num_kept"][tensor.name] < tensor.truncation.length:
                tensor.truncation.cut(int(state["num_kept"][tensor.name]))

    def optimizer_state_dict(self) -> dict[str, Any]:
        """Return the optimiser's state_dict without the tails, the state of masked coefficients."""
        return self._resized_optimizer_state(self._require_optimizer().state_dict(), to_lengths=False)

    def load_optimizer_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `optimizer_state_dict` gave (changes the optimiser); masked entries become zero."""
        self._require_optimizer().load_state_dict(self._resized_optimizer_state(state, to_lengths=True))

    def _check(self, model: nn.Module) -> None:
        if not self._tensors:
            raise StructureError("the model is not regularised: call tailcut.regularize(model) first")
        self._check_whole()
        if self._spacing not in SPACINGS:
            raise ArgumentError(f"spacing must be one of {', '.join(SPACINGS)}, got {self._spacing!r}")
        if self._spacing == "geometric" and self._num_steps is None:
            raise ArgumentError('spacing "geometric" needs num_steps')
        if self._optimizer is not None:
            if not hasattr(self._optimizer, "param_groups"):
                raise ArgumentError(f"expected one optimiser, got {type(self._optimizer).__name__}")
            trained = {id(entry) for group in self._optimizer.param_groups for entry in group["params"]}
            if not any(id(parameter) in trained for parameter in model.parameters()):
                raise ArgumentError(
                    "the optimiser trains none of this model's parameters: give the one that does, or none"
                )
        if isinstance(self._optimizer, torch.optim.LBFGS):
            raise ArgumentError(
                "expected an optimiser with a state for each parameter, got LBFGS: its history runs over all of them "
                "and cannot be cut; take another one, or give none and make a new LBFGS after finish()"
            )

    def _check_whole(self) -> None:
        """Raise an error where processes hold parts of the vectors, as FSDP2 does, or where they cannot be changed."""
        for tensor in self._tensors:
            if hasattr(tensor.vector, "device_mesh"):
                raise StructureError(
                    f"{tensor.name}: its coefficients are spread over processes ({type(tensor.vector).__name__}), and "
                    "a cut needs them whole: train with DistributedDataParallel"
                )
            if tensor.vector.is_inference() and not torch.is_inference_mode_enabled():
                raise ArgumentError(
                    f"{tensor.name}: the network was built, copied or loaded under torch.inference_mode, so that its "
                    "numbers can neither be changed nor trained: do that outside of it"
                )

    def _resolve_targets(
        self, num_kept: int | Mapping[str, int] | None, keep_ratio: float | None, min_kept: int
    ) -> dict[str, int]:
        if (num_kept is None) == (keep_ratio is None):
            raise ArgumentError("give the target as either num_kept or keep_ratio")
        if num_kept is not None and min_kept > 1:
            raise ArgumentError("min_kept is for keep_ratio: num_kept sets the count itself")
        names = {alias: tensor.name for tensor in self._tensors for alias in (tensor.name, *tensor.aliases)}
        by_name = None
        if isinstance(num_kept, Mapping):
            counts = check_named_counts(num_kept)
            for tensor in self._tensors:
                count_of((tensor.name, *tensor.aliases), counts)
            by_name = {names.get(name, name): count for name, count in counts.items()}
        unknown = set(by_name or ()).difference(self.starts)
        if unknown:
            raise ArgumentError(f"num_kept names {sorted(unknown)[0]!r}; regularised are {', '.join(self.starts)}")
        targets = {}
        for tensor in self._tensors:
            if keep_ratio is not None:
                targets[tensor.name] = ratio_target(tensor, keep_ratio, min_kept)
                continue
            if by_name is not None and tensor.name not in by_name:
                targets[tensor.name] = tensor.num_kept
                continue
            count: Any = by_name[tensor.name] if by_name is not None else num_kept
            target = count_kept(
                tensor.shape,
                tensor.axes,
                keep_ratio=None,
                num_kept=count,
                name=tensor.name,
            )
            if by_name is not None:
                target = int(count)  # not clipped: more than a tensor has is a slip where it is asked for by its name
                _check_reached(tensor, target)
            targets[tensor.name] = min(target, tensor.num_kept)
        most = max(self.starts.values())
        if num_kept is not None and not isinstance(num_kept, Mapping) and num_kept > most:
            raise ArgumentError(f"num_kept {num_kept} cuts nothing: no tensor keeps more than {most}; start higher")
        return targets

    def _gamma_for(self, num_steps: int) -> float:
        """Return the gamma that leaves every tensor less than half a coefficient above its target after all steps."""
        farthest = max(self.starts[name] - target for name, target in self.targets.items())
        if farthest == 0:
            return 1.0
        remaining: float = (0.49 / farthest) ** (1 / num_steps)
        return 1 - remaining

    def _count_after(self, name: str, steps: int) -> int:
        start, target = self.starts[name], self.targets[name]
        if self._spacing == "geometric" and self._num_steps is not None:
            part = min(1.0, steps / self._num_steps)
            count = round_half_up(target * (start / target) ** (1 - part))
        else:
            count = _paper_count(start, target, self._gamma, steps)
        return max(target, min(start, count))

    def _cut_to(self, counts: Mapping[str, int]) -> None:
        with torch.no_grad():
            for tensor in self._tensors:
                count = min(counts[tensor.name], tensor.num_kept)
                if count == tensor.truncation.length:
                    continue
                tensor.truncation.cut(count)
                for content in (tensor.vector, tensor.vector.grad, *self._state_tensors(tensor)):
                    if content is not None:
                        content[count:] = 0

    def _set_length(self, tensor: TruncatedTensor, length: int) -> None:
        if length == tensor.truncation.length:
            return
        old = tensor.truncation.length
        state = self._optimizer.state.get(tensor.vector, {}) if self._optimizer is not None else {}
        set_length(tensor.holder, tensor.truncation, length)
        for key, value in state.items():
            if _belongs_to_vector(value, old):
                state[key] = resized_vector(value, length)

    def _state_tensors(self, tensor: TruncatedTensor) -> list[torch.Tensor]:
        if self._optimizer is None:
            return []
        state = self._optimizer.state.get(tensor.vector, {})
        return [value for value in state.values() if _belongs_to_vector(value, tensor.truncation.length)]

    def _require_optimizer(self) -> torch.optim.Optimizer:
        if self._optimizer is None:
            raise ArgumentError("this schedule has no optimiser: give it one as TailTruncation(..., optimizer=...)")
        return self._optimizer

    def _resized_optimizer_state(self, state: Mapping[str, Any], *, to_lengths: bool) -> dict[str, Any]:
        by_parameter = {id(tensor.vector): tensor for tensor in self._tensors}
        parameters = [entry for group in self._require_optimizer().param_groups for entry in group["params"]]
        # Copies throughout: torch's optimisers take over the tensors they are given.
        resized = copy.deepcopy(dict(state["state"]))
        for number, parameter in enumerate(parameters):
            tensor = by_parameter.get(id(parameter))
            if tensor is None or number not in resized:
                continue
            short, full = tensor.num_kept, tensor.truncation.length
            old, new = (short, full) if to_lengths else (full, short)
            resized[number] = {
                key: resized_vector(value, new) if _belongs_to_vector(value, old) else value
                for key, value in resized[number].items()
            }
        return {**state, "state": resized}


def _belongs_to_vector(value: object, length: int) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 1 and value.shape[0] == length


def steps_to_reach(start: int, target: int, gamma: float = PAPER_GAMMA) -> int:
    """Return the number of steps of the paper's schedule after which `start` coefficients round to `target`."""
    if start <= target:
        return 0
    if gamma >= 1:
        return 1
    steps = max(0, math.floor(math.log(0.5 / (start - target)) / math.log1p(-gamma)) - 1)
    while _paper_count(start, target, gamma, steps) > target:
        steps += 1
    return steps


def _paper_count(start: int, target: int, gamma: float, steps: int) -> int:
    """Return the paper's recurrence, solved: the distance to the target shrinks by 1 - gamma in each step."""
    return round_half_up(target + (start - target) * (1 - gamma) ** steps)
