"""Decides what a page shows of a network, and makes the programs that it runs."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError
from tailcut.evaluation.generation import GENERATORS, ImagesOfCodes, Sampler
from tailcut.evaluation.pixel_inputs import image_shape
from tailcut.export_c.export import check_size, lower, reading_pixels, refuse_detector
from tailcut.export_c.program.program import Program
from tailcut.structure import example_shape, image_shorter_side, in_evaluation, name_of, source_of, without_views
from tailcut.weights import to_dense

Kind = Literal["classes", "mask", "images"]
# Height and width of photos for networks that take any size.
PHOTO_SIZE = (320, 480)
MASK_CHANNELS = (1, 2)
IMAGE_CHANNELS = (1, 3)


@dataclass(frozen=True)
class PageNetwork:
    """A network as a page runs it.

    Attributes:
        kind: what comes out: numbers of classes, a mask, or images made of random codes.
        programs: one for each size of input; the page takes the one of the most similar form.
        class_names: of all classes, the numbers where the network has no names; empty without classes.
        num_parameters: of the dense network.
        shorter_side: what the shorter side of an image is resized to before its middle goes in; None: images are
            squashed.
    """

    kind: Kind
    programs: tuple[Program, ...]
    class_names: tuple[str, ...]
    num_parameters: int
    shorter_side: int | None = None


def page_network(model: nn.Module, size: tuple[int, int] | None = None) -> PageNetwork:
    """Lower a network for a page.

    Args:
        model: of a registered family; it is not changed.
        size: height and width of its input, which images are squashed to; without it as in its training (see
            `tailcut.inputs.set_image_size`); for masks `PHOTO_SIZE`. Masks
            are made of upright and of wide photos: their height and width are swapped for a second program.

    Raises:
        ArgumentError: the network is of no registered family, or gives neither classes nor masks nor images; or no
            input has this size.
        StructureError: a layer has no form in C (the message names it), or the network is a detector.
    """
    model = without_views(model)
    refuse_detector(model)
    dense = to_dense(model)
    num_parameters = sum(parameter.numel() for parameter in dense.parameters())
    if isinstance(source_of(model), GENERATORS):
        if size is not None:
            raise ArgumentError("a network that makes images takes no size")
        code = torch.zeros(1, Sampler(model).code_size)
        program = _lowered(ImagesOfCodes(model), ImagesOfCodes(dense), code)
        return PageNetwork(_kind(program), (program,), (), num_parameters)
    shape = image_shape(model)
    if shape is None or example_shape(model) is None:
        raise ArgumentError(
            "a page needs a network of a registered family that reads images, which gives their channels and size"
        )
    if shape[0] not in (1, 3):
        raise ArgumentError(f"a page reads grey or RGB images; the network takes {shape[0]} channels")
    if size is not None:
        check_size(shape[0], size)
    named, model, dense = model, reading_pixels(model), reading_pixels(dense)
    programs = [_lowered(model, dense, torch.rand(1, shape[0], *(size or shape[1:])))]
    kind = _kind(programs[0])
    if kind == "mask":
        height, width = size or PHOTO_SIZE
        sizes = dict.fromkeys([(height, width), (width, height)])
        programs = [_lowered(model, dense, torch.rand(1, shape[0], *one)) for one in sizes]
    names: tuple[str, ...] = ()
    if kind == "classes":
        (count,) = programs[0].output_shapes[0]
        names = tuple(name_of(named, number, count) or str(number) for number in range(count))
    shorter_side = image_shorter_side(named) if kind == "classes" and size in (None, shape[1:]) else None
    return PageNetwork(kind, tuple(programs), names, num_parameters, shorter_side)


def _lowered(model: nn.Module, dense: nn.Module, example: Tensor) -> Program:
    program, _ = lower(model, in_evaluation(dense.cpu().float()), example)
    return program


def _kind(program: Program) -> Kind:
    shapes = program.output_shapes
    if shapes == ((1,),):
        raise ArgumentError("a page shows the most likely of two classes or more; the network gives one number")
    if len(shapes) == 1 and len(shapes[0]) == 1:
        return "classes"
    if len(shapes) == 1 and len(shapes[0]) == 3 and len(program.input_shape) == 1 and shapes[0][0] in IMAGE_CHANNELS:
        return "images"
    if len(shapes) == 1 and len(shapes[0]) == 3 and len(program.input_shape) == 3 and shapes[0][0] in MASK_CHANNELS:
        return "mask"
    raise ArgumentError(
        "a page shows classes (n), masks (1 or 2, height, width) or images made of codes; the network gives "
        + ", ".join(map(str, shapes))
    )
