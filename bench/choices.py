"""What `fuse` chooses for whole networks, and what its view costs where dense weights are the better choice."""

import dataclasses
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import compare, forward_of
from tailcut.execution import fuse
from tailcut.structure import create_model
from tailcut.weights import regularize, to_dense


def perceptron(widths: tuple[int, ...]) -> nn.Module:
    """Linear layers of these inputs and outputs, a ReLU after each but the last."""
    layers = [module for sizes in pairwise(widths) for module in (nn.Linear(*sizes), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


# Networks with the shapes of their inputs. In a tiny one all that shows is the Python of the view around it.
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
    is_small = len(scale.unet_widths) < 5
    networks = list(NETWORKS)[:3] if is_small else list(NETWORKS)
    rows: list[Row] = []
    slowest = float("inf")
    for name in networks:
        for batch in BATCHES[:2] if is_small else BATCHES:
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
