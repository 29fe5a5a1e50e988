"""What `fuse` chooses for whole networks: that it is never slower than the dense network."""

import dataclasses

import torch

from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import compare, forward_of
from tailcut.execution import fuse
from tailcut.structure import create_model
from tailcut.weights import regularize, to_dense

# Networks with the side and the channels of their pictures.
NETWORKS: dict[str, tuple[int, int]] = {
    "lenet5": (28, 1),
    "resnet20": (32, 3),
    "vgg16_bn_cifar": (32, 3),
    "resnet18": (64, 3),
    "mobilenetv2": (64, 3),
}
# Coefficients kept in each tensor: a number, or a share of the network's.
KEPT: tuple[int | float, ...] = (20, 200, 1000, 0.1, 1.0)
BATCHES = (1, 8, 32)
SHARE = 0.05  # of a comparison's seconds, for each of these many
MORE = 20  # times as many runs at most: some take less than a millisecond


def choices_table(scale: Scale) -> Table:
    """Whole networks by batch and coefficients kept: times faster than the same network with dense weights."""
    is_small = len(scale.unet_widths) < 5
    networks = list(NETWORKS)[:2] if is_small else list(NETWORKS)
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
    size, channels = NETWORKS[name]
    network = create_model(name)
    if isinstance(kept, int):
        regularize(network, num_kept=kept)
    else:
        regularize(network, keep_ratio=kept)
    network.eval()
    x = torch.rand(batch, channels, size, size)
    candidates = {"fused": forward_of(fuse(network, x), x), "dense": forward_of(to_dense(network), x)}
    many = dataclasses.replace(scale, max_repetitions=MORE * scale.max_repetitions)
    found = compare(candidates, many, share=SHARE)
    return found["dense"].best_s / found["fused"].best_s
