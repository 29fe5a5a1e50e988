"""`transplant_stem`: makes a trained RGB network read frequency channels by a fitted first layer, without training."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle, unfold

from tailcut.errors import ArgumentError, DataError, StructureError
from tailcut.inputs.stem import surgery
from tailcut.inputs.stem.edit import MAX_MAP_SIZE, MAX_SIDE, LayerEntry, ReplaceStemEdit, Setting, count_of
from tailcut.inputs.stem.patch_embedding import IMAGE_SIZES
from tailcut.inputs.stem.replace import check_unedited, make, submodule
from tailcut.inputs.stem.trace import ModuleTrace, modules_before, run, trial_copy
from tailcut.inputs.stem.trial import arrives, check_same_behind, noise, outputs_behind, runs_transform
from tailcut.inputs.transform.block_dct import BlockDCT, check_block_dct
from tailcut.model_inputs import check_loader
from tailcut.printing import Report
from tailcut.transform.exact import exact

_log = logging.getLogger(__name__)

# Numbers of the matrix of neighbourhoods that are laid out at a time: 64 MB of float64.
CHUNK_NUMBERS = 1 << 23
MAX_INPUTS = 1 << 13

Preprocess = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TransplantReport(Report):
    """Report of `transplant_stem`: the fitted layer and its error.

    Attributes:
        target: the module whose output the new layer gives.
        removed: modules that gave way; the first one became the new layer.
        kernel_size: of the new convolution, in channel pixels.
        stride: of the new convolution.
        shuffle: how many times finer the old stem's maps are than the channels (`nn.PixelShuffle`).
        num_images: how many it was fitted to.
        relative_error: root mean square of what the new layer misses on these, over the spread of the old features.
    """

    target: str
    removed: tuple[str, ...]
    kernel_size: int
    stride: int
    shuffle: int
    num_images: int
    relative_error: float

    def __str__(self) -> str:
        """Return the report as one line."""
        finer = f", {self.shuffle} x {self.shuffle} finer" if self.shuffle > 1 else ""
        return (
            f"{self.kernel_size} x {self.kernel_size} convolution{finer} in place of {', '.join(self.removed)}, "
            f"fitted to {self.num_images:,} images: misses {100 * self.relative_error:.2f} % of {self.target}"
        )


def transplant_stem(
    model: nn.Module,
    transform: BlockDCT,
    loader: Iterable[Any],
    *,
    preprocess: Preprocess | None = None,
    resize: Preprocess | None = None,
    target: str | None = None,
    kernel_size: int = 3,
    ridge: float = 1e-6,
) -> TransplantReport:
    """Replace the stem of a trained RGB network by a fitted first layer over frequency channels. Changes the model.

    The old features are a function of pixels, and pixels a linear function of the channels. So the first convolution of
    a network is a convolution over the channels of the images, up to frequencies that are not selected, to what lies
    beyond `kernel_size` blocks, and to the borders: where the network pads with zeros, the channels are padded with
    theirs, the mean image. So normalise them with the mean that the network's input had: no training can do better than
    the linear regression. It is computed in closed form (ridge regression, normal equations in float64), streamed over
    the loader. Everything behind the target stays. Sizes of the image by which a patch embedding checks its input
    become those of the channels, where the network does not run otherwise; one of 8 n x 8 n pixels is converted exactly
    by `convert_patch_embedding`.

    By default the target is the first convolution, which is linear: batch norm, ReLU and pooling behind it go on as
    they are. A later target, for example "maxpool" of a ResNet, saves these too; but the ReLU between is then fitted
    by a linear map.

    Where the old maps are r times finer than the channels (a stride-2 convolution on 224 pixels gives 112 x 112, the
    DCT 28 x 28), the convolution gives r x r as many maps, which `nn.PixelShuffle` sorts; where they are coarser, it
    has a stride. Larger images for the transform (448) keep more of what the network saw, at more cost.

    Args:
        model: a trained network that reads pixels, in 3 channels.
        transform: of the images that the network will read; fit its statistics before. Copied.
        loader: batches of RGB images, (batch, 3, height, width), uint8 or 0 to 1; of a tuple or list the first item
            counts. A few hundred do; no labels.
        preprocess: what the network gets of images of 0 to 1: its normalisation and, if the images have another
            one, its size. None: the images as they are.
        resize: what the transform gets of images of 0 to 1: enlarged by 2, for example, as in the paper. Do the
            same when the network is used. None: the images as they are.
        target: name of the module whose output is fitted; the first convolution when None.
        kernel_size: of the new convolution, odd.
        ridge: added to the diagonal of the normal equations, relative to its mean. Larger values damp weights of
            channels that hardly vary.

    Returns:
        How well it fits.

    Raises:
        ArgumentError: sizes do not fit together, or an argument is out of range.
        DataError: the loader gives nothing, or numbers that are not finite.
        StructureError: the stem cannot be replaced so; the message says why.

        In each case the model is unchanged.
    """
    check_unedited(model)
    check_block_dct(transform)
    _check_numbers(kernel_size, ridge)
    batches = _images(loader)
    first = next(batches, None)
    if first is None:
        raise DataError("the loader gives no images to fit the stem to")
    old = _OldStem(trial_copy(model), preprocess, target, first[:1])

    def channels(images: Tensor) -> Tensor:
        made: Tensor = transform(_prepared(images, transform.mean, resize))
        return made

    entry = _entry(old(first[:1]).shape, channels(first[:1]).shape, kernel_size)
    if resize is not None:
        _warn_of_resizing(first, _prepared(first[:1], transform.mean, resize))
    fit = _Regression(entry)
    for images in chain([first], batches):
        fit.add(channels(images), old(images))
    weight, bias, error = fit.solve(ridge)
    edit = ReplaceStemEdit(
        transform.selection,
        transform.chroma,
        transform.padding,
        removed=tuple(old.removed),
        entry=entry,
        map_size=fit.map_size,
    )
    edit = _that_runs(edit, model, old, first[:1])
    make(model, edit, transform)
    _fill_in(model.get_submodule(edit.removed[0]), weight, bias)
    report = TransplantReport(old.target, edit.removed, kernel_size, entry.stride, entry.shuffle, fit.num_images, error)
    _log.info("%s", report)
    return report


def _fill_in(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Give the new first layer its numbers (changes the module)."""
    convolution = layer.convolution if isinstance(layer, surgery.FinerConvolution) else layer
    with torch.no_grad():
        for name, values in (("weight", weight), ("bias", bias)):
            convolution.get_parameter(name).copy_(values)


class _Reached(Exception):  # noqa: N818, it is no error
    """Ends a forward as soon as the target has run."""


class _OldStem:
    """Runs a network up to the target module."""

    def __init__(self, trial: nn.Module, preprocess: Preprocess | None, target: str | None, image: Tensor) -> None:
        self._trial, self._preprocess = trial, preprocess
        pixels = self._pixels(image)
        trace = run(trial, pixels, what="an image (after preprocess)")
        self.size = pixels.shape[2:]
        self.target = _first_convolution(trial, trace) if target is None else target
        self._module = submodule(trial, self.target, "target")
        if self.target not in trace.outputs or len(trace.outputs[self.target]) != 4:
            raise ArgumentError(
                f"target: {self.target!r} gives no tensor (batch, channels, height, width) in the forward"
            )
        self.removed = modules_before(trial, trace, self.target, inclusive=True)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the target's output for images of 0 to 1 or 0 to 255."""
        found: list[Tensor] = []

        def stop(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            found.append(output)
            raise _Reached

        with self._module.register_forward_hook(stop), torch.no_grad(), suppress(_Reached):
            self._trial(self._pixels(images))
        if not found[0].isfinite().all():
            raise DataError(f"{self.target} gives numbers that are not finite; look at preprocess and the images")
        return found[0]

    def outputs(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the target's output for an image, and the outputs of the network."""
        return outputs_behind(self._trial, self._pixels(image), self.target)

    def _pixels(self, images: Tensor) -> Tensor:
        return _prepared(images, surgery.like_model(self._trial), self._preprocess)


class _Regression:
    """Ridge regression of feature maps on neighbourhoods of channels, accumulated batch by batch in float64."""

    def __init__(self, entry: LayerEntry) -> None:
        self._entry = entry
        self._products: Tensor | None = None  # (inputs, inputs), the last input is the constant 1
        self._moments: Tensor | None = None  # (inputs, outputs)
        self._squares: Tensor | None = None  # (outputs,)
        self._num_rows = 0
        self.num_images = 0
        self.map_size = (0, 0)

    def add(self, channels: Tensor, features: Tensor) -> None:
        """Add channels (batch, C, h, w) and the features (batch, K, hy, wy) of the same images.

        Raises:
            ArgumentError: the images have another size than those before.
        """
        size = channels.shape[2], channels.shape[3]
        if self.num_images and size != self.map_size:
            raise ArgumentError(f"images must have one size: their channels are {size} after {self.map_size}")
        x, y = exact(channels), exact(features.to(channels.device))
        y = pixel_unshuffle(y, self._entry.shuffle)
        per_image = y.shape[2] * y.shape[3] * (x.shape[1] * self._entry.kernel**2 + 1)
        step = max(1, CHUNK_NUMBERS // per_image)
        for start in range(0, x.shape[0], step):
            self._add_rows(x[start : start + step], y[start : start + step])
        self.num_images += x.shape[0]
        self.map_size = (x.shape[2], x.shape[3])

    def _add_rows(self, x: Tensor, y: Tensor) -> None:
        _, kernel, stride, padding, _ = self._entry
        columns = unfold(x, kernel, padding=padding, stride=stride)  # (batch, C kernel kernel, places)
        rows = columns.transpose(1, 2).flatten(0, 1)
        rows = torch.cat([rows, rows.new_ones(rows.shape[0], 1)], dim=1)
        wanted = y.flatten(2).transpose(1, 2).flatten(0, 1)  # (rows, outputs)
        parts = rows.T @ rows, rows.T @ wanted, wanted.square().sum(0)
        known = self._products, self._moments, self._squares
        self._products, self._moments, self._squares = (
            part if old is None else old + part for old, part in zip(known, parts, strict=True)
        )
        self._num_rows += rows.shape[0]

    def solve(self, ridge: float) -> tuple[Tensor, Tensor, float]:
        """Weight (outputs, C, kernel, kernel), bias (outputs,), relative error. The constant is not damped."""
        if self._products is None or self._moments is None or self._squares is None:
            raise DataError("there is nothing to fit the stem to")
        damping = torch.full_like(self._products[0], ridge * float(self._products.diagonal()[:-1].mean()))
        damping[-1] = 0
        factor, failed = torch.linalg.cholesky_ex(self._products + damping.diag())
        if int(failed) != 0:
            raise ArgumentError(f"the channels of these images depend on each other; raise ridge above {ridge:g}")
        solution = torch.cholesky_solve(self._moments, factor)
        explained = 2 * (solution * self._moments).sum() - (solution * (self._products @ solution)).sum()
        means = self._moments[-1] / self._num_rows
        spread = self._squares.sum() - self._num_rows * means.square().sum()
        missed = (self._squares.sum() - explained).clamp(min=0)
        error = float((missed / spread.clamp(min=torch.finfo(spread.dtype).tiny)).sqrt())
        kernel = self._entry.kernel
        weight = solution[:-1].T.reshape(solution.shape[1], -1, kernel, kernel)
        return weight, solution[-1], error


def _warn_of_resizing(images: Tensor, resized: Tensor) -> None:
    before, after = ("{} x {}".format(*x.shape[-2:]) for x in (images, resized))
    if before != after:
        _log.warning(
            "resize makes images of %s of those of %s, outside of the network: give it such images wherever it is "
            "used. tailcut predict does; tailcut evaluate takes a data set's images as they are (NAME@SIDE resizes)",
            *(after, before),
        )


def _images(loader: Iterable[Any]) -> Iterator[Tensor]:
    check_loader(loader, "loader must be a tensor or batches of images")
    for item in [loader] if isinstance(loader, Tensor) else loader:
        images = item[0] if isinstance(item, (tuple, list)) and item else item
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
            what = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ArgumentError(f"expected a loader of RGB images (batch, 3, height, width), got {what}")
        if images.shape[0]:
            yield images


def _prepared(images: Tensor, like: Tensor, prepare: Preprocess | None) -> Tensor:
    """Images of 0 to 1 on the device and in the type of `like`, then prepared."""
    scaled = images.to(like.device, like.dtype) / (255 if images.dtype == torch.uint8 else 1)
    return scaled if prepare is None else prepare(scaled)


def _first_convolution(trial: nn.Module, trace: ModuleTrace) -> str:
    ran = [name for name, module in trial.named_modules() if isinstance(module, nn.Conv2d) and name in trace.starts]
    if not ran:
        raise ArgumentError("the network runs no Conv2d; name the target module")
    first: str = min(ran, key=lambda name: trace.starts[name][0])
    return first


def _entry(features: torch.Size, channels: torch.Size, kernel_size: int) -> LayerEntry:
    """Return the new layer: `features` and `channels` are the shapes of old maps and of channels."""
    (_, width, rows, columns), (_, num_channels, high, wide) = features, channels
    shuffle, stride = max(rows // high, 1), max(high // rows, 1)
    if (rows * stride, columns * stride) != (high * shuffle, wide * shuffle) or max(shuffle, stride) > MAX_SIDE:
        raise ArgumentError(
            f"the old features are {rows} x {columns}, the channels {high} x {wide}: one must be a whole multiple of "
            "the other; change the size of the images, or of what preprocess gives"
        )
    if max(high, wide) > MAX_MAP_SIZE:
        raise ArgumentError(f"the channels are {high} x {wide}, at most {MAX_MAP_SIZE} is allowed: take smaller images")
    if num_channels * kernel_size**2 > MAX_INPUTS:
        raise ArgumentError(
            f"{kernel_size} x {kernel_size} blocks of {num_channels} channels are more than {MAX_INPUTS} inputs"
        )
    return LayerEntry(width, kernel_size, stride, kernel_size // 2, shuffle)


def _that_runs(edit: ReplaceStemEdit, model: nn.Module, old: _OldStem, image: Tensor) -> ReplaceStemEdit:
    """Return the edit after a trial; where the network counts pixels, with its counts changed."""
    before = old.outputs(image)
    try:
        return _tried(edit, trial_copy(model), old.target, before)
    except StructureError:
        settings = _counts(model, old, edit.map_size, edit.selection.num_channels)
        if not settings:
            raise
        return _tried(replace(edit, settings=settings), trial_copy(model), old.target, before)


def _tried(
    edit: ReplaceStemEdit, trial: nn.Module, target: str, before: tuple[Tensor, Sequence[Tensor]]
) -> ReplaceStemEdit:
    """Return the edit, after channels ran through `trial` (which is changed) and reached the target unchanged.

    `before` are the target's output and the network's outputs for an image.
    """
    edit.check(trial)
    edit.replace_modules(trial)
    made: dict[str, Tensor] = {}
    for name in (edit.removed[0], target):
        trial.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: made.update({name: output})
        )
    x = noise((1, edit.selection.num_channels, *edit.map_size), surgery.like_model(trial)) - 0.5
    with arrives(trial, edit.removed[0], x):
        inside = runs_transform(trial, lambda: run(trial, x, what="a tensor of channels"))
    if made[target].shape != made[edit.removed[0]].shape or not torch.equal(made[target], made[edit.removed[0]]):
        raise StructureError(
            f"between the input and {target} the forward does more than call modules (a functional relu, a pooling?), "
            "which would act on the fitted features again; make these steps modules, or name an earlier target"
        )
    features, outputs = before
    check_same_behind(target, outputs, outputs_behind(trial, x, target, features)[1])
    return replace(edit, inside=inside)


def _counts(model: nn.Module, old: _OldStem, map_size: tuple[int, int], num_channels: int) -> tuple[Setting, ...]:
    """Return what the modules around the target count, as patch embeddings do to check their input, of channels.

    Only where the network does not run on channels otherwise: others may resize their output by such a count.
    """
    (side, width), (high, wide) = old.size, map_size
    owners = old.target.split(".")[:-1]
    names = [".".join(owners[:end]) for end in range(len(owners) + 1)]
    owner = model.get_submodule(names[-1])
    found = [Setting(names[-1], "num_channels", num_channels)] if count_of(owner, "num_channels") == 3 else []
    for name in names if (side, high) == (width, wide) else ():
        module = model.get_submodule(name)
        sizes = [Setting(name, one, high) for one in IMAGE_SIZES if count_of(module, one) == side]
        patch = count_of(module, "patch_size")
        if sizes and type(patch) is int and patch * high % side == 0:
            sizes.append(Setting(name, "patch_size", patch * high // side))
        found += sizes
    return tuple(found)


def _check_numbers(kernel_size: int, ridge: float) -> None:
    if type(kernel_size) is not int or not 1 <= kernel_size <= MAX_SIDE or kernel_size % 2 == 0:
        raise ArgumentError(f"expected an odd kernel_size of 1 to {MAX_SIDE}, got {kernel_size!r}")
    if isinstance(ridge, bool) or not isinstance(ridge, (int, float)) or not 0 <= ridge < float("inf"):
        raise ArgumentError(f"expected a ridge of at least 0, got {ridge!r}")
