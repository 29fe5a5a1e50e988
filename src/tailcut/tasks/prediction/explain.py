"""Grad-CAM: the regions of an image that a network's class score depends on.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (2017): the maps of
a layer, each weighted by the mean of the gradient of the class's output over it, added up; what speaks against the
class is left out.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tailcut.channels.scoring.feature_maps import follow_maps
from tailcut.channels.scoring.forward import evaluating_eagerly
from tailcut.errors import ArgumentError, StructureError
from tailcut.evaluation.evaluate import check_no_detector, choose_device, fitting, runnable
from tailcut.evaluation.metrics.class_metrics import check_answers
from tailcut.evaluation.pixel_inputs import reader_of
from tailcut.format import load
from tailcut.plotting import check_figure_path, new_figure, write_figure
from tailcut.printing import Report, table
from tailcut.reports.networks import check_named_once
from tailcut.structure import MAX_INPUT_PIXELS, check_pixels, name_of
from tailcut.structure.views import unwrapped
from tailcut.tasks.prediction.outputs import shown_class
from tailcut.tasks.prediction.reading import image_size_of, read_as_trained

FIGURE = "a heat map"


@dataclass(frozen=True)
class HeatMap:
    """Result of Grad-CAM.

    Attributes:
        layer: whose maps were used.
        class_number: the class that was asked for.
        num_classes: how many the network has.
        probability: that the network gives it.
        values: float32 (height, width) of the network's input, 0 to 1; all 0 where nothing speaks for the class.
    """

    layer: str
    class_number: int
    num_classes: int
    probability: float
    values: Tensor


@dataclass
class Explanation(Report):
    """One network's answer.

    Attributes:
        source: the file, as it was given.
        layer: whose maps were used.
        best_class_number: the class that the network finds likeliest.
        best_class_name: its name, None if the network has no class names.
        probability: of the explained class, 0 to 1.
        focus: (row, column) of the strongest point, 0 to 1 from the top left; None where nothing speaks for the class.
    """

    source: str
    layer: str
    best_class_number: int
    best_class_name: str | None
    probability: float
    focus: tuple[float, float] | None


@dataclass
class ExplainReport(Report):
    """Report of the heat maps of networks for an image.

    Attributes:
        image: the file.
        class_number: the class that is explained.
        class_name: its name, from the first network with class names; None without.
        out: the drawing: the image, and the heat map of each network on it.
        explanations: one per network.
    """

    image: str
    class_number: int
    class_name: str | None
    out: str
    explanations: list[Explanation]

    def __str__(self) -> str:
        """Return one row per network."""
        rows = [
            (
                item.source,
                item.layer,
                shown_class(item.best_class_number, item.best_class_name),
                f"{100 * item.probability:.1f} %",
            )
            for item in self.explanations
        ]
        explained = shown_class(self.class_number, self.class_name)
        header = ("model", "layer", "its class", f"probability of class {explained}")
        return f"{table(header, rows, align='<<<>')}\n\n{self.out}"


@torch.inference_mode(False)
@torch.enable_grad()
def grad_cam(model: nn.Module, image: Tensor, *, layer: str | None = None, class_number: int | None = None) -> HeatMap:
    """Compute the Grad-CAM heat map of a class. The model is not changed.

    Args:
        model: a classifier.
        image: (1, channels, height, width).
        layer: name of the convolution whose maps are used, as `tailcut.channels.scoring.feature_maps` finds them; the
            last one that runs and has more than one place in its maps when None.
        class_number: the class; the likeliest when None.

    Raises:
        ArgumentError: the image is no batch of one, there is no such layer or class, or the class does not depend on
            the layer's maps, or these have one place only.
        StructureError: the network has no convolution, or none with more than one place.
    """
    network = unwrapped(model)
    if image.ndim != 4 or len(image) != 1:
        raise ArgumentError(f"Grad-CAM looks at one image (1, channels, height, width), got {tuple(image.shape)}")
    layers = _convolutions(network, layer)
    found: list[_Maps] = []
    ran: dict[str, int] = {}

    def take(names: tuple[str, ...], maps: Tensor) -> None:
        if follower.whole is not None:
            # A copy of the values: what comes after may work in place.
            found.append(_Maps(max(names, key=lambda name: ran[name]), maps.detach().clone(), *follower.whole))

    # The image requires a gradient too, so that a network with frozen weights has one.
    with evaluating_eagerly(network), _noting_order(layers, ran), follow_maps(layers, take) as follower:
        outputs = network(image.detach().clone().requires_grad_())
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        raise ArgumentError("Grad-CAM needs a classifier: outputs (1, classes)")
    if outputs.shape[1] < 2:
        raise ArgumentError("Grad-CAM looks at one of two classes or more; the network gives one number")
    check_answers(outputs)
    if not found:
        raise ArgumentError(f"no map of {'any convolution' if layer is None else layer} was seen in the forward")
    number = int(outputs.argmax()) if class_number is None else class_number
    if not 0 <= number < outputs.shape[1]:
        raise ArgumentError(f"the network has classes 0 to {outputs.shape[1] - 1}, got {number}")
    maps = _last_with_places(sorted(found, key=lambda entry: ran[entry.layer]), layer)
    (gradient,) = torch.autograd.grad(outputs[0, number], maps.whole, allow_unused=True)
    if gradient is None:
        raise ArgumentError(f"the outputs do not depend on the maps of layer {maps.layer}")
    weights = gradient.narrow(maps.axis, maps.start, maps.size).mean(dim=(2, 3), keepdim=True)
    heat = (weights * maps.values).sum(dim=1, keepdim=True).relu()
    heat = interpolate(heat.float(), size=image.shape[2:], mode="bilinear", align_corners=False)[0, 0]
    highest = float(heat.max())
    scaled = heat / highest if highest > 0 else torch.zeros_like(heat)
    probability = float(outputs[0].detach().softmax(dim=0)[number])
    return HeatMap(maps.layer, number, outputs.shape[1], probability, scaled.cpu())


def explain_files(
    files: Sequence[str | Path],
    image: str | Path,
    out: str | Path,
    *,
    layer: str | None = None,
    class_number: int | None = None,
    device: str = "auto",
    max_input_pixels: int = MAX_INPUT_PIXELS,
) -> ExplainReport:
    """Draw what the networks of .tailcut files (or `zoo:NAME`) see in an image, side by side.

    Args:
        files: one or more, of registered classifiers; each gets the image in the size of its example shape.
        image: a PNG or JPEG file.
        out: the PNG to write.
        layer: see `grad_cam`.
        class_number: the class to explain; that which the first network finds likeliest when None.
        device: see `choose_device`.
        max_input_pixels: the most pixels of the images that a network may ask for.

    Raises:
        LimitError: a network asks for larger images.
        ArgumentError: a network takes no images or is given twice, `out` cannot be written, or as in `grad_cam`.
        DataError: the image cannot be read.
        MissingExtraError: matplotlib is not installed.
    """
    if not files:
        raise ArgumentError("give at least one file to explain")
    check_figure_path(out, FIGURE)
    check_named_once(files)
    place = choose_device(device)
    panels: list[tuple[str, Tensor, HeatMap]] = []
    explanations = []
    number, explained = class_number, None
    for file in files:
        model = load(file, device=place)
        pixels = _pixels(image, model, max_input_pixels).to(place)
        x = reader_of(model)(pixels)
        network = runnable(model, place, dense=True)
        with fitting(x):
            own = grad_cam(network, x, layer=layer)
            number = own.class_number if number is None else number
            heat = own if own.class_number == number else grad_cam(network, x, layer=layer, class_number=number)
        panels.append((str(file), pixels.cpu()[0], heat))
        best = name_of(model, own.class_number, own.num_classes)
        explained = explained or name_of(model, number, own.num_classes)
        focus = _focus(heat.values)
        explanations.append(Explanation(str(file), heat.layer, own.class_number, best, heat.probability, focus))
    number = panels[0][2].class_number
    _draw(panels, shown_class(number, explained), out)
    return ExplainReport(str(image), number, explained, str(out), explanations)


def _convolutions(network: nn.Module, layer: str | None) -> dict[str, nn.Module]:
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    found: dict[str, nn.Module] = {
        name: module for name, module in network.named_modules() if isinstance(module, kinds)
    }
    if not found:
        raise StructureError(f"{type(network).__name__} has no 2-D convolution whose maps Grad-CAM could look at")
    if layer is None:
        return found
    if layer not in found:
        raise ArgumentError(f"there is no 2-D convolution {layer!r}; there are {', '.join(found)}")
    return {layer: found[layer]}


class _Maps(NamedTuple):
    """A layer's maps: their values, and the tensor of the forward in which they lie; see `MapFollower.whole`."""

    layer: str
    values: Tensor
    whole: Tensor
    axis: int
    start: int
    size: int


@contextmanager
def _noting_order(layers: Mapping[str, nn.Module], ran: dict[str, int]) -> Iterator[None]:
    """Within the block, note in `ran` which of the layers ran how late: their maps may be known in another order."""
    numbers = itertools.count()

    def noting(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, arguments: Any, output: Any) -> None:
            ran[name] = next(numbers)

        return note

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_hook(noting(name)))
        yield


def _last_with_places(found: Sequence[_Maps], layer: str | None) -> _Maps:
    """Return the last maps of more than one place: those of a convolution in the place of a linear layer have one."""
    wide = [entry for entry in found if entry.values.shape[2:].numel() > 1]
    if wide:
        return wide[-1]
    hint = "a heat map needs maps of more than one place"
    if layer is not None:
        raise ArgumentError(f"the maps of layer {layer} are of one place; {hint}: name a convolution before it")
    raise StructureError(f"no convolution of the network gives a map of more than one place; {hint}")


def _pixels(path: str | Path, model: nn.Module, max_input_pixels: int) -> Tensor:
    """Return the image (1, channels, height, width) at the example size of the network's family, or of its edits."""
    check_no_detector(model, "explain")
    size = image_size_of(model, "explain")
    check_pixels(model, size.height_width, max_input_pixels)
    return read_as_trained(path, size)


def _focus(values: Tensor) -> tuple[float, float] | None:
    if not bool(values.any()):
        return None
    height, width = values.shape
    row, column = divmod(int(values.argmax()), width)
    return (row + 0.5) / height, (column + 0.5) / width


def _draw(panels: Sequence[tuple[str, Tensor, HeatMap]], explained: str, out: str | Path) -> None:
    figure = new_figure(FIGURE, (3.4 * (len(panels) + 1), 4.2))
    axes = figure.subplots(1, len(panels) + 1)
    for place, axis in enumerate(axes):
        title, image, heat = panels[max(0, place - 1)]
        pixels = image.expand(3, -1, -1) if len(image) == 1 else image
        axis.imshow(pixels.permute(1, 2, 0).numpy())
        height, width = pixels.shape[1:]
        axis.set_axis_off()
        if place == 0:
            axis.set_title(f"class {explained}", fontsize=9)
        else:
            # Of blocks, where the network reads blocks: one value is drawn over all their pixels.
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            axis.imshow(heat.values.numpy(), cmap="jet", alpha=0.5, vmin=0, vmax=1, extent=extent)
            axis.set_title(f"{title}\n{100 * heat.probability:.1f} %, {heat.layer}", fontsize=9)
    write_figure(figure, out)
