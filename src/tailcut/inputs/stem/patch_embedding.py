"""Patch embeddings of 8 n x 8 n pixels, converted exactly to frequency channels."""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError, StructureError
from tailcut.inputs.jpeg.coefficients import LEVEL_SHIFT
from tailcut.inputs.stem import surgery
from tailcut.inputs.stem.edit import LayerEntry, ReplaceStemEdit, Setting, count_of
from tailcut.inputs.stem.replace import check_unedited, example_of, make, submodule
from tailcut.inputs.stem.trace import modules_before, run, trial_copy
from tailcut.inputs.stem.trial import (
    advise_example,
    arrives,
    check_same_behind,
    noise,
    outputs_behind,
    runs_transform,
)
from tailcut.inputs.transform.block_dct import BlockDCT, check_block_dct
from tailcut.transform.block import BLOCK_SIZE, block_dct, to_channels
from tailcut.transform.color import RGB_TO_YCBCR
from tailcut.transform.exact import exact

_log = logging.getLogger(__name__)

# Where vision transformers keep theirs: Tailcut's and CLIP's, torchvision's, timm's, those of transformers. They may be
# within a larger network.
KNOWN_NAMES = ("patch_embedding", "conv_proj", "patch_embed.proj", "patch_embeddings.projection")
# Counts of pixels that a module may keep to check its input by: torchvision's and transformers', timm's.
IMAGE_SIZES = ("image_size", "img_size")


def convert_patch_embedding(
    model: nn.Module,
    transform: BlockDCT | None = None,
    *,
    name: str | None = None,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    example_input: Tensor | None = None,
) -> nn.Module:
    """Make a vision transformer read frequency channels: the same outputs, no training. Changes the model.

    A patch embedding is a linear map of 8 n x 8 n pixels, and these are a linear map of the 192 coefficients of n x n
    blocks. So a convolution of n x n over the channels gives the same tokens, up to rounding: colour conversion, level
    shift, cosines and both normalisations (the network's and the transform's) go into its weights and bias.

    That is exact with all 192 channels and chroma in full (4:4:4). Frequencies that are not selected count as zero.
    With two-scale chroma it is exact for images whose chroma the smoothing by 1/8, 3/4, 1/8 leaves alone: grey ones
    and flat colours; others lose their finest chroma. The change is recorded, so that files restore it.

    Args:
        model: a vision transformer; nothing runs before its patch embedding. Or just that convolution: then it is not
            changed, and a new one is returned.
        transform: all 192 channels and full chroma, without statistics, when None. It is copied.
        name: of the convolution in the model; None finds that of Tailcut, torchvision, timm and transformers (ViT,
            DeiT, CLIP, SigLIP). Sizes by which these check their input are changed too. Patches of 14 pixels, as the
            published networks of DINOv2 have, are refused.
        mean: what the network's input was normalised with, for pixels of 0 to 1: (pixel - mean) / std.
        std: likewise.
        example_input: pixels that the model takes as it is, (batch, 3, height, width), sides multiples of 8. None: of
            its own image size, or of its example shape (224 x 224 for a network of your own).

    Returns:
        The model (of a convolution: a new one).

    Raises:
        ArgumentError: no such module, mean and std are not three numbers, std above 0, or transform and example are
            not such.
        StructureError: it is no patch embedding of 8 n x 8 n pixels, something runs before it, the model does not run
            on the example, or it uses its pixels or their number elsewhere too; unchanged.
    """
    transform = BlockDCT(192, chroma="full") if transform is None else transform
    check_block_dct(transform)
    if isinstance(model, nn.Conv2d):
        return _as_layer(model, *converted(model, transform, mean, std))
    check_unedited(model)
    place = _place(model) if name is None else name
    convolution = submodule(model, place, "name")
    if not isinstance(convolution, nn.Conv2d):
        raise StructureError(f"{place} is a {type(convolution).__name__}, not a convolution of patches")
    # The statistics that count are those that the network will have, in its own type.
    transform = copy.deepcopy(transform).to(surgery.like_model(model))
    weight, bias = converted(convolution, transform, mean, std, name=place)
    patch = convolution.kernel_size[0]
    edit = ReplaceStemEdit(
        transform.selection,
        transform.chroma,
        transform.padding,
        removed=(place,),
        entry=LayerEntry(convolution.out_channels, patch // BLOCK_SIZE, patch // BLOCK_SIZE, 0, 1),
        settings=_counts(model, place, patch, transform.num_channels),
    )
    edit = replace(edit, map_size=_tried(trial_copy(model), edit, place, example_input))
    make(model, edit, transform)
    new = model.get_submodule(place)
    with torch.no_grad():
        new.get_parameter("weight").copy_(weight)
        new.get_parameter("bias").copy_(bias)
    new.requires_grad_(convolution.weight.requires_grad)  # a frozen one stays frozen
    _log.info("converted %s to %d channels", place, transform.num_channels)
    return model


def converted(
    convolution: nn.Conv2d, transform: BlockDCT, mean: Sequence[float], std: Sequence[float], *, name: str = ""
) -> tuple[Tensor, Tensor]:
    """Weight (out_channels, channels, n, n) and bias (out_channels,) over the channels of `transform`, float64.

    `name` is the convolution's in its network, for the errors.

    Raises:
        ArgumentError: mean and std are not three numbers, std above 0.
        StructureError: the convolution is no patch embedding of 8 n x 8 n pixels.
    """
    _check_patches(convolution, name)
    if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
        raise ArgumentError(f"mean and std must be three numbers each, std above 0; got {mean!r} and {std!r}")
    weight = exact(convolution.weight.detach())
    device = weight.device
    means = torch.tensor(mean, dtype=torch.float64, device=device)
    scales = 1 / torch.tensor(std, dtype=torch.float64, device=device)
    weight = weight * scales[:, None, None]  # of pixels of 0 to 1
    bias = weight.new_zeros(len(weight)) if convolution.bias is None else exact(convolution.bias.detach())
    bias = bias - torch.einsum("ochw,c->o", weight, means)
    to_rgb = torch.tensor(RGB_TO_YCBCR, dtype=torch.float64, device=device).inverse()
    weight = torch.einsum("ochw,cp->ophw", weight / 255, to_rgb)  # of Y, Cb and Cr of 0 to 255, chroma around 0
    bias = bias + LEVEL_SHIFT * weight[:, 0].sum(dim=(1, 2))
    channels = to_channels(block_dct(weight)).flatten(1, 2)  # (out, 192, n, n): a linear map of coefficients
    channels = channels[:, list(transform.selection.indices)]
    own_mean, own_std = exact(transform.mean).to(device), exact(transform.std).to(device)
    bias = bias + torch.einsum("ochw,c->o", channels, own_mean)
    return channels * own_std[:, None, None], bias


def _as_layer(like: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    out_channels, num_channels, size, _ = weight.shape
    layer = nn.Conv2d(num_channels, out_channels, size, size).to(like.weight)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.copy_(bias)
    return layer.train(like.training).requires_grad_(like.weight.requires_grad)


def _place(model: nn.Module) -> str:
    found: list[str] = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and any(f".{name}".endswith(f".{known}") for known in KNOWN_NAMES)
    ]
    if len(found) != 1:
        what = f"patch embeddings {' and '.join(found)}" if found else f"no {' or '.join(KNOWN_NAMES)}"
        raise ArgumentError(f"the model has {what}: give the name of its patch embedding as `name`")
    return found[0]


def _check_patches(convolution: nn.Conv2d, name: str) -> None:
    height, width = convolution.kernel_size
    is_plain = (
        convolution.in_channels == 3
        and convolution.groups == 1
        and convolution.stride == (height, width)
        and convolution.padding in ((0, 0), "valid")
        and convolution.dilation == (1, 1)
    )
    if not is_plain or height != width or height % BLOCK_SIZE:
        raise StructureError(
            f"{name}{': ' if name else ''}expected a convolution of 3 channels whose kernel and stride are equal and "
            f"multiples of {BLOCK_SIZE}, got {convolution}"
        )


def _counts(model: nn.Module, place: str, patch: int, num_channels: int) -> tuple[Setting, ...]:
    """Return what the modules around the patch embedding count: pixels, divided by 8, and channels."""
    owner_name = place.rpartition(".")[0]
    owner = model.get_submodule(owner_name)
    settings = [Setting(owner_name, "num_channels", num_channels)] if count_of(owner, "num_channels") == 3 else []
    if count_of(owner, "patch_size") != patch:
        return tuple(settings)
    settings += _pixels(owner_name, {name: count_of(owner, name) for name in (*IMAGE_SIZES, "patch_size")})
    parts = owner_name.split(".") if owner_name else []
    for name in (".".join(parts[:end]) for end in range(len(parts))):  # those of transformers' ViT check it once more
        above = model.get_submodule(name)
        same = [one for one in (*IMAGE_SIZES, "patch_size") if count_of(above, one) == count_of(owner, one)]
        settings += _pixels(name, {one: count_of(above, one) for one in same})
    return tuple(settings)


def _pixels(name: str, counts: Mapping[str, object]) -> list[Setting]:
    """Return counts of pixels of a module, divided by 8."""
    found = []
    for attribute, count in counts.items():
        if count is None:
            continue
        if type(count) is not int or count % BLOCK_SIZE:
            raise StructureError(
                f"{name or 'the model'} has {attribute}={count}; expected one number for both sides, a multiple of "
                f"{BLOCK_SIZE}"
            )
        found.append(Setting(name, attribute, count // BLOCK_SIZE))
    return found


def _example(model: nn.Module, place: str) -> Tensor:
    """Return pixels of the size that the owner of the patch embedding names, or of the model's example shape."""
    owner = model.get_submodule(place.rpartition(".")[0])
    side = next((side for name in IMAGE_SIZES if type(side := count_of(owner, name)) is int), None)
    return example_of(model) if side is None else noise((1, 3, side, side), surgery.like_model(model))


def _tried(trial: nn.Module, edit: ReplaceStemEdit, place: str, example: Tensor | None) -> tuple[int, int]:
    """Return the size of the channels that the network runs with instead of pixels. Changes `trial`."""
    pixels = _example(trial, place) if example is None else example
    if pixels.ndim != 4 or any(side % BLOCK_SIZE for side in pixels.shape[2:]):
        raise ArgumentError(
            f"example_input must be (batch, 3, height, width) with sides that are multiples of {BLOCK_SIZE}, got "
            f"{tuple(pixels.shape)}"
        )
    trace = run(trial, pixels, what="an example image", advise=advise_example)
    early = modules_before(trial, trace, place, inclusive=True) if place in trace.starts else []
    if early != [place]:
        raise StructureError(
            f"{early[0] if early else 'no patch embedding'} runs first; {place} must be the first module that runs; "
            "give what a normalisation before it does as mean and std"
        )
    features, outputs = outputs_behind(trial, pixels, place)
    edit.check(trial)
    edit.replace_modules(trial)
    height, width = (size // BLOCK_SIZE for size in pixels.shape[2:])
    x = noise((1, edit.selection.num_channels, height, width), surgery.like_model(trial)) - 0.5
    with arrives(trial, place, x):
        inside = runs_transform(trial, lambda: run(trial, x, what="a tensor of channels"))
    if inside:
        raise StructureError("the network runs all its children in order, so the transform has no place; wrap it")
    check_same_behind(place, outputs, outputs_behind(trial, x.repeat(len(pixels), 1, 1, 1), place, features)[1])
    return height, width
