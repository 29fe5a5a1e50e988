"""What `fuse` chooses for whole networks, and what its wrapper costs where dense weights are the better choice."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import CLOCKS, compare, forward_of
from tailcut.execution import fuse
from tailcut.structure import create_model
from tailcut.weights import regularize, to_dense


def perceptron(widths: tuple[int, ...]) -> nn.Module:
    """Linear layers of these inputs and outputs, a ReLU after each but the last."""
    layers = [module for sizes in pairwise(widths) for module in (nn.Linear(*sizes), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


# Networks with the shapes of their inputs. In a tiny one all that shows is the Python of the wrapper around it.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "2 linear layers of 32": (partial(perceptron, (32, 32, 10)), (32,)),
    "20 linear layers of 64": (partial(perceptron, (64,) * 21), (64,)),
    "lenet5": (partial(create_model, "lenet5"), (1, 28, 28)),
    "resnet20": (partial(create_model, "resnet20"), (3, 32, 32)),
    "vgg16_bn_cifar": (partial(create_model, "vgg16_bn_cifar"), (3, 32, 32)),
    "resnet18": (partial(create_model, "resnet18"), (3, 64, 64)),
    "mobilenetv2": (partial(create_model, "mobilenetv2"), (3, 64, 64)),
}
# Coefficients kept in each tensor: a number, or a share of the network's.
KEPT: tuple[int | float, ...] = (20, 200, 1000, 0.1, 1.0)
BATCHES = (1, 8, 32)
SHARE = 0.05  # of a comparison's seconds, for each of these many
MORE = 20  # times as many runs at most: some take less than a millisecond


def choices_table(scale: Scale) -> Table:
    """Whole networks by batch and coefficients kept: times faster than the same network with dense weights."""
    networks = list(NETWORKS)[: None if scale.is_full else 3]
    rows: list[Row] = []
    slowest = float("inf")
    for name in networks:
        for batch in BATCHES if scale.is_full else BATCHES[:2]:
            found = {_title(kept): _times_faster(name, kept, batch, scale) for kept in KEPT}
            slowest = min(slowest, *found.values())
            rows.append({"network": name, "batch": batch, **found})
    columns = {"network": "", "batch": "d", **{_title(kept): ".2f" for kept in KEPT}}
    notes = [
        "By coefficients kept in each tensor, or by their share of the network's. The shortest of many runs in turn is "
        f"compared, as these take milliseconds. The least is {slowest:.2f}."
    ]
    return Table("Whole networks in evaluation, times faster than with dense weights", columns, rows, notes)


def _title(kept: int | float) -> str:
    return f"{kept:,} kept" if isinstance(kept, int) else f"{kept:.0%} kept"


def _times_faster(name: str, kept: int | float, batch: int, scale: Scale) -> float:
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    network = build()
    if isinstance(kept, int):
        regularize(network, num_kept=kept)
    else:
        regularize(network, keep_ratio=kept)
    network.eval()
    x = torch.rand(batch, *shape)
    candidates = {"fused": forward_of(fuse(network, x), x), "dense": forward_of(to_dense(network), x)}
    many = dataclasses.replace(scale, max_repetitions=MORE * scale.max_repetitions)
    found = compare(candidates, many, share=SHARE)
    return found["dense"].best_s / found["fused"].best_s


# Networks in which nothing is fused: a call of the wrapper should cost one look-up.
NEVER_FUSED = ("2 linear layers of 32", "lenet5", "resnet20", "mobilenetv2")
NEVER_FUSED_KEPT = 200
BLOCK_SECONDS = 2e-3  # so long one network runs before the other has its turn
PAIRS = 101


def overhead_table(scale: Scale) -> Table:
    """Networks that run densely: the speed of the wrapper's calls, and what the first call of a shape costs."""
    rows: list[Row] = []
    for name in NEVER_FUSED if scale.is_full else NEVER_FUSED[:2]:
        for batch in BATCHES:
            rows.append(_overhead_row(name, batch, scale, PAIRS if scale.is_full else 11))
    columns = {"network": "", "batch": "d", "dense ms": ".3f", "speed of dense": ".3f", "first call": ".1f"}
    notes = [
        f"{NEVER_FUSED_KEPT} coefficients kept in each tensor. Speed of dense: time of the network with dense weights "
        "by that of the fused one, the median over pairs of blocks run in turn. First call: of a shape, in calls "
        "of the network with dense weights; the median of several new wrappers."
    ]
    return Table("Where nothing is fused: a call of the wrapper", columns, rows, notes)


def _overhead_row(name: str, batch: int, scale: Scale, pairs: int) -> Row:
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    network = build().eval()
    regularize(network, num_kept=NEVER_FUSED_KEPT)
    plain, x = to_dense(network), torch.rand(batch, *shape)
    clock = CLOCKS[scale.clock]
    with torch.no_grad():
        plain(x)
        first = statistics.median(_seconds(fuse(network), x, 1, clock) for _ in range(5))
        fused = fuse(network)
        for _ in range(3):
            fused(x)
        if any(layer.strategy != "dense" for layer in fused.report().layers):
            raise ValueError(f"{name} is fused at batch {batch}: this table is of networks that run densely")
        number = max(1, round(BLOCK_SECONDS / _seconds(plain, x, 5, time.perf_counter)))
        timed = [
            (_seconds(plain, x, number, clock), _seconds(fused, x, number, clock))
            if turn % 2
            else tuple(reversed((_seconds(fused, x, number, clock), _seconds(plain, x, number, clock))))
            for turn in range(pairs)
        ]
    dense = statistics.median(pair[0] for pair in timed)
    ratio = statistics.median(pair[0] / pair[1] for pair in timed)
    return {
        "network": name,
        "batch": batch,
        "dense ms": 1e3 * dense,
        "speed of dense": ratio,
        "first call": first / dense,
    }


def _seconds(network: nn.Module, x: torch.Tensor, number: int, clock: Callable[[], float]) -> float:
    """Seconds of one of so many calls."""
    start = clock()
    for _ in range(number):
        network(x)
    return (clock() - start) / number
