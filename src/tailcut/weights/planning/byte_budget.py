"""Estimate of the coefficients that a file of so many bytes has room for, before anything is trained."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tailcut.arguments import check_positive
from tailcut.errors import ArgumentError
from tailcut.printing import Report
from tailcut.weights.planning.budget import budget, weights_of

COEFFICIENT_BITS = 4.0
"""Of networks that are compressed or trained for bytes; from 1.5, of many coefficients, to 6, of few."""

PARAMETER_BITS = 5.0
"""Of a gain, a shift, a bias or a weight that is no coefficient."""

STATISTIC_BITS = 1.0
"""Of a running mean or variance: behind truncated weights they are smooth along the channels."""

STRUCTURE_BYTES, TENSOR_BYTES = 40, 6
"""Of any file, and of each tensor of coefficients."""

STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class ByteBudget(Report):
    """Estimated use of a file of so many bytes.

    Attributes:
        target_bytes: of the file.
        num_kept: tensor -> coefficients, for `regularize(num_kept=...)`.
        bytes_by_kind: as `tailcut.inspect` has them: "coefficients", "batch norm", "biases", "other tensors" and
            "structure".
    """

    target_bytes: int
    num_kept: Mapping[str, int]
    bytes_by_kind: Mapping[str, int]

    def __str__(self) -> str:
        kinds = sorted(self.bytes_by_kind.items(), key=lambda pair: -pair[1])
        parts = ", ".join(f"{kind} {count:,}" for kind, count in kinds if count)
        total = sum(self.bytes_by_kind.values())
        # A plan fills its bytes, but for rounding, unless there is nothing left to fill them with.
        rest = f"; all coefficients are kept, in {total:,} bytes" if total < self.target_bytes - len(kinds) else ""
        return f"of {self.target_bytes:,} bytes about: {parts}{rest}"


def byte_budget(
    model: nn.Module,
    target_bytes: int,
    *,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] = (),
) -> ByteBudget:
    """Plan how many coefficients each weight may have in a file of `target_bytes`, equally many. The model stays.

    The file is one of `tailcut.compress` or of a training for bytes, whose numbers take about 4 bits each; either makes
    it just so large in the end. What is no coefficient (batch norm, biases) is counted first.

    Args:
        model: the network before `regularize`.
        target_bytes: of the whole file.
        include: see `tailcut.regularize`.
        exclude: likewise.

    Raises:
        ArgumentError: other numbers take all the bytes, or a setting is out of range.
        StructureError: the model is regularised already.
    """
    target_bytes = check_positive("target_bytes", target_bytes)
    chosen = weights_of(model, include, exclude)
    sizes = {id(candidate.parameter): candidate.parameter.numel() for candidate in chosen}
    kinds = {kind: round(bits / 8) for kind, bits in _side_bits(model, set(sizes)).items()}
    kinds["structure"] = STRUCTURE_BYTES + TENSOR_BYTES * len(chosen)
    room, least = target_bytes - sum(kinds.values()), len(chosen) * COEFFICIENT_BITS / 8
    if room < least:
        dominant = max(kinds, key=lambda kind: kinds[kind])
        raise ArgumentError(
            f"target_bytes {target_bytes:,} has no room for coefficients: what is none takes about "
            f"{sum(kinds.values()):,} bytes, {kinds[dominant]:,} of them for {dominant}; ask for "
            f"{sum(kinds.values()) + round(least) + 1:,} at least, or include more in the coefficients"
        )
    total = min(int(room * 8 / COEFFICIENT_BITS), sum(sizes.values()))
    counts = budget(model, total, include=include, exclude=exclude)
    return ByteBudget(target_bytes, counts, {"coefficients": round(total * COEFFICIENT_BITS / 8), **kinds})


def batch_norms(names: Iterable[str]) -> set[str]:
    """Return the modules among whose tensors, of these names, are running statistics: they are batch norms."""
    return {name.rpartition(".")[0] for name in names if name.rpartition(".")[2] in STATISTICS}


def purposes(is_parameter: Mapping[str, bool]) -> dict[str, str]:
    """Return what each tensor that is no coefficient is for: batch norm, biases, or other tensors.

    Args:
        is_parameter: by name of the tensor.
    """
    norms = batch_norms(is_parameter)
    kinds = {}
    for name, is_one in is_parameter.items():
        other = "biases" if is_one and name.rpartition(".")[2].endswith("bias") else "other tensors"
        kinds[name] = "batch norm" if name.rpartition(".")[0] in norms else other
    return kinds


def _side_bits(model: nn.Module, chosen: set[int]) -> dict[str, float]:
    """Return the bits of all numbers that are no coefficients, by purpose."""
    bits = dict.fromkeys(("batch norm", "biases", "other tensors"), 0.0)
    stored, seen = model.state_dict(keep_vars=True), set(chosen)
    kinds = purposes({name: isinstance(tensor, nn.Parameter) for name, tensor in stored.items()})
    for name, tensor in stored.items():
        if id(tensor) in seen or not isinstance(tensor, Tensor):  # a module's own extra state
            continue
        seen.add(id(tensor))
        if is_lazy(tensor):
            raise ArgumentError(f"{name} is not initialised yet: run one forward first, so that its size is known")
        if name.rpartition(".")[2] in STATISTICS:
            each = STATISTIC_BITS
        elif isinstance(tensor, nn.Parameter):
            each = PARAMETER_BITS
        else:
            each = 8.0 * tensor.element_size() if tensor.ndim else 0.0  # counters are the same everywhere
        bits[kinds[name]] += each * tensor.numel()
    return bits
