"""Published pruning rates: the layers of each network that they apply to, and the results in the paper's tables.

The paper prints lists without saying which convolutions they count; these readings give its MACs and parameters to
2 % (its figures are in `PAPER_RATES`). Where it differs: channels that are added go together here, while the published
code crops the shortcuts of ResNet-56 so that its first convolution keeps all 16 channels beside 13 of stage 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tailcut.errors import ArgumentError


@dataclass(frozen=True)
class PaperRates:
    """A list of the paper.

    Attributes:
        layers: for each rate the layers that lose this part of their channels; none for a rate that nobody reads.
        rates: the published list.
        macs: of the pruned network, from the paper's table.
        parameters: the same.
    """

    layers: tuple[tuple[str, ...], ...]
    rates: tuple[float, ...]
    macs: float
    parameters: float


def named_rates(which: str, name: str | None) -> Sequence[float]:
    """Return a list by name for a registered network.

    Args:
        which: "paper" (the paper's tables), or "extended" (about half of the MACs).
        name: of the network; None for a user's own class.

    Raises:
        ArgumentError: there is no such list, or none for this network.
    """
    lists: dict[str, dict[str, tuple[float, ...]]] = {
        "paper": {model: found.rates for model, found in PAPER_RATES.items()},
        "extended": EXTENDED_RATES,
    }
    if which not in lists:
        raise ArgumentError(f"rates must be numbers, or one of {', '.join(lists)}; got {which!r}")
    found = None if name is None else lists[which].get(name)
    if found is None:
        what = "a network of your own class" if name is None else repr(name)
        raise ArgumentError(f"there are no {which} rates for {what}, but for {', '.join(lists[which])}")
    return found


def _stages(template: str, depths: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    names = ((stage + 1, block) for stage, depth in enumerate(depths) for block in range(depth))
    return tuple(tuple(part.format(stage=stage, block=block) for part in template.split()) for stage, block in names)


def _inceptions() -> tuple[tuple[str, ...], ...]:
    inner = ("a3", "b3", "a4", "b4", "c4", "d4", "e4", "a5")
    return (*((f"{name}.b2.3", f"{name}.b3.3", f"{name}.b3.6") for name in inner), ("b5.b3.3",))


_VGG = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37)

PAPER_RATES = {
    # The first twelve convolutions; the last one is kept.
    "vgg16_bn_cifar": PaperRates(
        tuple((f"features.{place}",) for place in _VGG), (0.21,) * 7 + (0.75,) * 5, 131.17e6, 2.76e6
    ),
    # The first convolution, whose channels are those of stage 1; the outputs of stages 1 and 2 (stage 3 is kept); the
    # first convolution of each block.
    "resnet56": PaperRates(
        (("conv1",), ("layer1.8.conv2",), ("layer2.8.conv2",), *_stages("layer{stage}.{block}.conv1", (9, 9, 9))),
        (0.0,) + (0.18,) * 29,
        90.35e6,
        0.66e6,
    ),
    # The first convolution; the outputs of stages 1 to 3 (stage 4 is kept); both inner convolutions of each block.
    "resnet50": PaperRates(
        (
            ("conv1",),
            ("layer1.2.conv3",),
            ("layer2.3.conv3",),
            ("layer3.5.conv3",),
            *_stages("layer{stage}.{block}.conv1 layer{stage}.{block}.conv2", (3, 4, 6, 3)),
        ),
        (0.0,) + (0.1,) * 3 + (0.35,) * 16,
        2.26e9,
        15.09e6,
    ),
    # In each inception module the 3 x 3 convolutions, of which the last module keeps those that make its output. The
    # 1 x 1 convolutions are kept, and the first one too: the published code does not read its rate.
    "googlenet_cifar": PaperRates(
        ((), *_inceptions()),
        (0.3,) + (0.6,) * 2 + (0.7,) * 5 + (0.8,) * 2,
        0.65e9,
        2.86e6,
    ),
}

# Beyond the paper: ResNet-56 at 52 % of its MACs, to compare with later results at -47.4 %.
EXTENDED_RATES: dict[str, tuple[float, ...]] = {"resnet56": (0.0,) + (0.12,) * 2 + (0.41,) * 27}
