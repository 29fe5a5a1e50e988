"""Folders of `.npy` files with the scores that HRank, CHIP and CFDP published, or that their code writes.

One file holds the scores of the channels of one convolution: `rank_conv12.npy`, `ci_conv12.npy`, `score_conv12.npy`,
numbered from 1 in the order in which their code traverses the network; in GoogLeNet one file for each branch of a
module, `rank_conv2_n3x3.npy`.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tailcut.channels.scoring.scores import Scores
from tailcut.errors import ArgumentError, DataError
from tailcut.structure import base_of

MAX_FILE_BYTES = 1 << 20
METHODS = {"rank": "hrank", "ci": "chip", "score": "cfdp"}
_NAME = re.compile(r"(rank|ci|score)_conv(\d{1,4})(?:_(n1x1|n3x3|n5x5|pool_planes))?\.npy")
_BRANCHES = {"n1x1": ("b1.0",), "n3x3": ("b2.3",), "n5x5": ("b3.3", "b3.6"), "pool_planes": ("b4.1",)}
_INCEPTIONS = ("a3", "b3", "a4", "b4", "c4", "d4", "e4", "a5", "b5")


def read_score_folder(folder: str | Path, model: nn.Module) -> Scores:
    """Return the scores in a folder, for the layers of a network. Neither is changed.

    Args:
        folder: it holds `rank_conv1.npy`, ... (or `ci_conv...`, `score_conv...`); other files are ignored.
        model: `vgg16_bn_cifar`, `resnet56`, `resnet110`, `resnet50`, `densenet40`, `googlenet_cifar`, `mobilenetv1` or
            `mobilenetv2` (or the forms of the last two for small images), as wide as what was scored.

    Raises:
        ArgumentError: another network, or there are files for more layers than it has.
        DataError: there are no such files, files of several methods, or one is damaged or does not fit its layer.
    """
    folder = Path(folder)
    places = layer_names(model)
    widths = {name: layer.out_channels for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    importance: dict[str, Tensor] = {}
    methods, seen = set(), dict[tuple[str, int, str | None], str]()
    for path in sorted(folder.iterdir()):
        found = _NAME.fullmatch(path.name)
        if found is None:
            continue
        method, number, branch = found.groups()
        methods.add(method)
        earlier = seen.setdefault((method, int(number), branch), path.name)
        if earlier != path.name:
            raise DataError(f"{folder} holds two files for one layer, {earlier} and {path.name}: leave one")
        names = places.get((int(number), branch))
        if names is None:
            raise ArgumentError(f"{path} is for a layer that {_family(model)!r} does not have, which has {len(places)}")
        values = _read(path)
        for name in names:
            if len(values) != widths[name]:
                raise DataError(f"{path} holds {len(values)} scores, {name} has {widths[name]} channels")
            importance[name] = values
    if len(methods) != 1:
        what = f"scores of several methods ({', '.join(sorted(methods))})" if methods else "no file rank_conv1.npy, ..."
        raise DataError(f"{folder} holds {what}; expected rank_conv*.npy, ci_conv*.npy or score_conv*.npy")
    ordered = {name: importance[name] for name in widths if name in importance}
    skipped = {name: "no file holds its scores" for name in widths if name not in importance}
    return Scores(ordered, method=METHODS[methods.pop()], settings={"folder": folder.name}, skipped=skipped)


def layer_names(model: nn.Module) -> Mapping[tuple[int, str | None], tuple[str, ...]]:
    """Map each file's (number, branch) to the layers whose channels it scores.

    Raises:
        ArgumentError: the network is none of those that were published.
    """
    family = _family(model)
    convolutions = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    if family == "googlenet_cifar":
        branches: dict[tuple[int, str | None], tuple[str, ...]] = {
            (place + 2, branch): tuple(f"{block}.{name}" for name in names)
            for place, block in enumerate(_INCEPTIONS)
            for branch, names in _BRANCHES.items()
        }
        return {(1, None): ("pre_layers.0",), **branches}
    if family == "resnet50":
        convolutions.sort(key=_order_of_resnet50)
    elif family not in _IN_ORDER:
        known = ", ".join((*_IN_ORDER, "resnet50", "googlenet_cifar"))
        raise ArgumentError(f"folders of .npy scores are read for {known}; this network is {family!r}")
    return {(number, None): (name,) for number, name in enumerate(convolutions, start=1)}


_IN_ORDER = (
    "vgg16_bn_cifar",
    "resnet56",
    "resnet110",
    "densenet40",
    "mobilenetv1",
    "mobilenetv1_cifar",
    "mobilenetv2",
    "mobilenetv2_cifar",
)


def _order_of_resnet50(name: str) -> tuple[str, int, int]:
    """Sort a block's shortcut before its last convolution, and the first convolution before all."""
    found = re.fullmatch(r"layer(\d)\.(\d+)\.(conv\d|downsample)(?:\.0)?", name)
    if found is None:
        return "", 0, 0
    place = ("conv1", "conv2", "downsample", "conv3").index(found[3])
    return found[1], int(found[2]), place


def _family(model: nn.Module) -> str:
    base = base_of(model)
    return type(model).__name__ if base is None else base.name


def _read(path: Path) -> Tensor:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise DataError(f"{path} has {size:,} bytes, at most {MAX_FILE_BYTES:,} are read")
    try:
        values = np.load(path, allow_pickle=False)
    except Exception as error:
        # NumPy raises many kinds for a damaged header. Its text advises to allow pickle, which would run what it says.
        raise DataError(f"{path} is no .npy file of numbers, or it is damaged ({type(error).__name__})") from error
    is_vector = isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "fiu" and len(values) > 0
    if not is_vector or not np.isfinite(values).all():
        raise DataError(f"{path} must hold a vector of finite numbers, one per channel")
    return torch.from_numpy(values.astype(np.float64))
