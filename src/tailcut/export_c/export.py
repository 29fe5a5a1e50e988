"""`export_c`: a network as C99 that a microcontroller can run, without its dense weights."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError, StructureError, TailcutError, first_line
from tailcut.export_c.integer import memory as integer_memory
from tailcut.export_c.integer import tables as integer_tables
from tailcut.export_c.integer import writing as integer_writing
from tailcut.export_c.integer.program import IntegerProgram, integer_program
from tailcut.export_c.lowering.lowering import MAX_SIZE, KeptTensor, Lowering
from tailcut.export_c.lowering.operations.table import HANDLERS
from tailcut.export_c.program.memory import MAX_ARENA, plan
from tailcut.export_c.program.pooling import pool_outputs
from tailcut.export_c.program.program import Program
from tailcut.export_c.sources import integer_runner_files, other_runner_files, runner_files, runtime_folder
from tailcut.export_c.writing.text import Text, features, features_text, write_program
from tailcut.files import all_or_nothing, make_folder, write_atomically
from tailcut.inputs.detection.detectors import Detector
from tailcut.inputs.stem.replace import image_shape
from tailcut.inputs.transform.input_transform import input_transform_of
from tailcut.inputs.transform.pixel_network import PixelNetwork
from tailcut.printing import Report, silenced, sizes, table
from tailcut.structure import check_module, example_shape, in_evaluation, source_of, without_views
from tailcut.transform.dct import without_autocast
from tailcut.weights import to_dense, truncated_tensors

NAME = "model"
FEATURES = "tailcut_features.h"
ARITHMETICS = ("float32", "integer")
WRITTEN_BY = "written by tailcut export --to c; do not edit."


@dataclass(frozen=True)
class CExportReport(Report):
    """Files that `export_c` wrote, and the bytes they take on the device; the compiler knows those of the code.

    Attributes:
        out: where the files are.
        files: their names.
        input_shape: of one input, without the batch.
        output_shapes: of the outputs, which lie one after the other.
        flash_bytes: of the network's constants, by what they are for; "program" on a processor of 32 bits.
        arena_bytes: memory for one call.
        prepared_bytes: memory that makes later calls faster, where it is given.
        input_bytes: of the caller's input.
        output_bytes: of the caller's output.
        can_run_in_place: whether one buffer, as large as the larger of both, may be input and output.
        dense_weight_bytes: what the weights take as float32 arrays.
        dense_map_bytes: what the largest layer's whole input and output take, float32: the least that a runtime needs
            which writes each layer's output to memory.
        arithmetic: "float32" or "integer".
        rounded_weights: names of tensors that are no whole numbers of 16 bits times a step, and were rounded to such.
        dense_weights: names of truncated tensors that integers have no other form of than dense ones: of grouped
            convolutions, and of linear layers that read whole maps.
    """

    out: str
    files: tuple[str, ...]
    input_shape: tuple[int, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    flash_bytes: dict[str, int]
    arena_bytes: int
    prepared_bytes: int
    input_bytes: int
    output_bytes: int
    can_run_in_place: bool
    dense_weight_bytes: int
    dense_map_bytes: int
    arithmetic: str = "float32"
    rounded_weights: tuple[str, ...] = ()
    dense_weights: tuple[str, ...] = ()

    @property
    def input_and_output_bytes(self) -> int:
        """The least that a caller needs for both."""
        both = self.input_bytes, self.output_bytes
        return max(both) if self.can_run_in_place else sum(both)

    def __str__(self) -> str:
        outputs = ", ".join(map(sizes, self.output_shapes))
        flash = [(f"flash: {kind}", f"{count:,}", "") for kind, count in self.flash_bytes.items() if count]
        rows = [
            *flash,
            ("flash: all but code", f"{sum(self.flash_bytes.values()):,}", f"{self.dense_weight_bytes:,}"),
            ("RAM: arena", f"{self.arena_bytes:,}", f"{self.dense_map_bytes:,}"),
        ]
        if self.prepared_bytes:
            rows.append(("RAM: prepared, where speed matters", f"{self.prepared_bytes:,}", ""))
        dense = 4 * math.prod(self.input_shape), 4 * sum(map(math.prod, self.output_shapes))
        rows += [
            ("RAM: input", f"{self.input_bytes:,}", f"{dense[0]:,}"),
            ("RAM: output", f"{self.output_bytes:,}", f"{dense[1]:,}"),
        ]
        if self.can_run_in_place:
            rows.append(("RAM: input and output in one buffer", f"{self.input_and_output_bytes:,}", ""))
        numbers = "float32" if self.arithmetic == "float32" else "int16 with an exponent"
        text = (
            f"{self.out}: {', '.join(self.files)}\ninput {sizes(self.input_shape)}, output {outputs}, {numbers}\n\n"
            + table(("bytes", "this network", "dense"), rows, align="<>>")
        )
        if self.rounded_weights:
            text += f"\n\nrounded to 16 bits, as they are no integers times a step: {', '.join(self.rounded_weights)}"
        if self.dense_weights:
            text += f"\n\ntruncated, and stored as dense weights all the same: {', '.join(self.dense_weights)}"
        return text


def export_c(
    model: nn.Module,
    folder: str | Path,
    *,
    example_input: Tensor | None = None,
    image_size: tuple[int, int] | None = None,
    pixels: bool = False,
    arithmetic: str = "float32",
) -> CExportReport:
    """Write `model` as C99 for one size of input: `model.h`, `model.c` and the runtime. The model is not changed.

    Truncated layers run as: project the input's channels on a few cosines, small core, expand, row by row; their
    dense weights and wide maps are never made. Numbers stay in the narrowest type that holds them without loss. The
    program needs no memory but an arena whose size is a constant, and no library but `memcpy` and its like.

    Args:
        model: a network that `torch.export` can trace on one input of batch size 1.
        folder: where the files go; made if it is not there. Files of an earlier export are replaced, and those of the
            other arithmetic's runtime removed.
        example_input: (1, channels, height, width), (1, channels, length) for convolutions along one axis or (1,
            length, channels) where the network transposes it, (1, height, width) or (1, features); the registered
            shape if neither is given.
        image_size: height and width of the input instead, for a registered model.
        pixels: the input is RGB images of 0 to 1, (1, 3, height, width), which the network's own transform makes its
            frequency channels or YCbCr; other networks read pixels anyway.
        arithmetic: "float32", or "integer" for processors without a floating-point unit: inputs, outputs, maps and
            weights are integers of 16 bits with exponents, sums of 32.

    Returns:
        Flash and RAM, byte by byte.

    Raises:
        ArgumentError: `model` is no network, the example does not fit, there is no such arithmetic, or the folder has a
            file of one of these names that no export has written.
        StructureError: a layer has no form in C (the message names it), or the network is a detector.
    """
    if arithmetic not in ARITHMETICS:
        raise ArgumentError(f"expected an arithmetic of {', '.join(ARITHMETICS)}, got {arithmetic!r}")
    model = network_of(model)
    example = _example(model, example_input, image_size, pixels=pixels)
    dense = in_evaluation(to_dense(model).cpu().float())
    read, read_dense = (reading_pixels(model), reading_pixels(dense)) if pixels else (model, dense)
    program, map_bytes = _lowered(read, read_dense, example)
    comment = f"{type(dense).__name__}, {WRITTEN_BY}"
    dense_bytes = 4 * sum(parameter.numel() for parameter in dense.parameters())
    if arithmetic == "integer":
        return _write_integer(program, folder, comment, dense_bytes, map_bytes)
    _plan(program)
    text = write_program(program, NAME, comment)
    files = _write(folder, text, features(program), runner_files())
    return CExportReport(
        str(folder),
        files,
        program.input_shape,
        program.output_shapes,
        text.flash,
        4 * program.arena_floats,
        4 * program.prepared_floats,
        4 * program.input_floats,
        4 * program.output_floats,
        program.can_run_in_place,
        dense_bytes,
        map_bytes,
    )


def _write_integer(
    program: Program, folder: str | Path, comment: str, dense_bytes: int, map_bytes: int
) -> CExportReport:
    made = integer_program(program)
    integer_memory.plan(made)
    text = integer_writing.write_program(made, NAME, comment)
    used = features_text(integer_tables.used_features(made))
    return CExportReport(
        str(folder),
        _write(folder, text, used, integer_runner_files()),
        program.input_shape,
        program.output_shapes,
        text.flash,
        2 * made.arena_numbers + 4 * made.rows_numbers,
        0,
        2 * program.input_floats,
        2 * program.output_floats,
        False,
        dense_bytes,
        map_bytes,
        "integer",
        made.rounded_weights,
        made.dense_weights,
    )


def _write(folder: str | Path, text: Text, used: str, runtime: tuple[str, ...]) -> tuple[str, ...]:
    """Write all files into a folder; return their names."""
    own = {f"{NAME}.h": text.header, f"{NAME}.c": text.source, FEATURES: used}
    shipped = {name: (runtime_folder() / name).read_text(encoding="utf-8") for name in runtime}
    others = other_runner_files(shipped)  # of an earlier export: all `.c` files of the folder are compiled
    with all_or_nothing():  # a header of one network beside the source of another would compile
        folder = _made(folder)
        for name in (*own, *shipped, *others):
            _check_written_by_us(folder / name)
        for name, content in (own | shipped).items():
            write_atomically(folder / name, content)
    for name in others:
        (folder / name).unlink(missing_ok=True)
    return (*own, *shipped)


def _made(folder: str | Path) -> Path:
    try:
        return make_folder(folder)
    except OSError as error:
        raise ArgumentError(
            f"cannot write {folder}: the folder cannot be made there ({error.strerror}); give another one"
        ) from error


def _check_written_by_us(path: Path) -> None:
    """Raise `ArgumentError` if there is a file of this name that no export has written."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if path.stem == NAME:
        is_ours = text.partition("\n")[0].endswith(f"{WRITTEN_BY} */")
    else:  # a part of the runtime, of this version or another
        is_ours = text.startswith("/* ") and "tailcut" in text.lower()
    if not is_ours:
        raise ArgumentError(f"{path} is there, and no export to C has written it; move it, or export to another folder")


def integer_program_of(
    model: nn.Module,
    *,
    example_input: Tensor | None = None,
    image_size: tuple[int, int] | None = None,
    pixels: bool = False,
) -> IntegerProgram:
    """Return a network in integers, which `simulate` runs in Python bit for bit as C does. The model is not changed.

    Arguments and errors as those of `export_c`.
    """
    model = network_of(model)
    example = _example(model, example_input, image_size, pixels=pixels)
    dense = in_evaluation(to_dense(model).cpu().float())
    read, read_dense = (reading_pixels(model), reading_pixels(dense)) if pixels else (model, dense)
    return integer_program(_lowered(read, read_dense, example)[0])


def reading_pixels(model: nn.Module) -> nn.Module:
    """Return the network with the input transform that it keeps in front of it; itself if it keeps none."""
    transform = input_transform_of(model)
    return model if transform is None else PixelNetwork(model, transform)


def refuse_detector(model: nn.Module) -> None:
    """Raise `StructureError` for a detector, whose outputs have no fixed size."""
    if isinstance(source_of(model), Detector):
        raise StructureError(
            "a detector finds as many objects as there are, and all sizes of the C code are fixed: run it in Python "
            "(tailcut predict), or export its weights with --to torch or safetensors"
        )


def lower(model: nn.Module, dense: nn.Module, example: Tensor) -> tuple[Program, int]:
    """Lower a network, plan its memory, and count the bytes of the dense network's largest input and output.

    Args:
        model: with truncated tensors or without.
        dense: `to_dense` of it, in evaluation mode.
        example: of batch size 1.
    """
    program, map_bytes = _lowered(model, dense, example)
    _plan(program)
    return program, map_bytes


def _plan(program: Program) -> None:
    pool_outputs(program)
    plan(program)


def _lowered(model: nn.Module, dense: nn.Module, example: Tensor) -> tuple[Program, int]:
    with silenced(), torch.no_grad(), without_autocast(torch.device("cpu")):
        _check_runs(dense, example)
        try:
            traced = torch.export.export(dense, (example,))
        except Exception as error:
            raise StructureError(
                f"{type(dense).__name__} cannot be exported: {first_line(error)} (torch.export must trace it)"
            ) from error
    signature = traced.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants: dict[str, Any] = {
        place: traced.state_dict[name] for place, name in names.items() if name in traced.state_dict
    }
    for place, name in {**signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}.items():
        if name in traced.constants:
            constants[place] = traced.constants[name]
    names |= signature.inputs_to_lifted_tensor_constants
    lowering = Lowering(_kept(model), constants, names, HANDLERS)
    return lowering.run(traced.graph), _largest_maps(traced.graph, set(lowering.constants))


def _check_runs(dense: nn.Module, example: Tensor) -> None:
    """Raise `ArgumentError` if the network fails on the example: tracing would fail too, and blame the network."""
    try:
        dense(example)
    except TailcutError:
        raise
    except Exception as error:
        raise ArgumentError(
            f"the network does not take an input of shape {tuple(example.shape)}, the batch first: {first_line(error)}"
        ) from error


def _kept(model: nn.Module) -> dict[str, KeptTensor]:
    found: dict[str, KeptTensor] = {}
    for tensor in truncated_tensors(model):
        truncation = tensor.truncation
        numbers = tensor.coefficients().detach().to(torch.float32).cpu().numpy()
        kept = KeptTensor(numbers, tensor.shape, truncation.corner_shape, tensor.axes, truncation.order_weights)
        found |= dict.fromkeys((tensor.name, *tensor.aliases), kept)
    return found


def network_of(model: nn.Module) -> nn.Module:
    """Return a network without views of it; raise `ArgumentError` for what is none."""
    if isinstance(model, (str, Path)):
        raise ArgumentError(f"expected a network, got {str(model)!r}; give tailcut.load({str(model)!r})")
    check_module("export_c", model)
    model = without_views(model)
    refuse_detector(model)
    return model


def _example(model: nn.Module, example: Tensor | None, size: tuple[int, int] | None, *, pixels: bool = False) -> Tensor:
    if example is not None and size is not None:
        raise ArgumentError("give example_input= or image_size=, not both")
    if example is None:
        shape = example_shape(model)
        if shape is None:
            raise ArgumentError("a network of your own class needs example_input=, a tensor of batch size 1")
        if pixels:
            shape = (1, *(image_shape(model) or shape[1:]))
        if size is not None:
            if len(shape) != 4:
                raise ArgumentError(f"image_size={size} is for networks that read maps")
            check_size(shape[1], size)
            shape = (1, shape[1], *size)
        example = torch.rand(1, *shape[1:])
    if not isinstance(example, Tensor):
        raise ArgumentError(f"example_input must be a tensor, as C code takes one input, got {type(example).__name__}")
    if example.ndim not in (2, 3, 4) or example.shape[0] != 1:
        raise ArgumentError(
            "expected an example (1, channels, height, width), (1, channels, length) or (1, features), got "
            f"{tuple(example.shape)}"
        )
    if example.dtype != torch.uint8 and not example.is_floating_point():
        raise ArgumentError(
            f"example_input is {str(example.dtype).removeprefix('torch.')}, and C code reads floating-point numbers: "
            "of a network that reads tokens, export what follows the embedding, or the whole with export_onnx"
        )
    return example.cpu().float()


def check_size(channels: int, size: tuple[int, int]) -> None:
    """Raise `ArgumentError` if no input of C code has this height and width, before memory is taken for one."""
    if min(size) < 1 or max(size) > MAX_SIZE or channels * math.prod(size) > MAX_ARENA:
        raise ArgumentError(
            f"image_size must be a height and a width of 1 to {MAX_SIZE:,}, with at most {MAX_ARENA:,} numbers in the "
            f"{channels} channels of the input; got {size[0]} x {size[1]}"
        )


def _largest_maps(graph: torch.fx.Graph, constants: set[str]) -> int:
    """Bytes of the largest input and output of one node together."""

    def floats(node: torch.fx.Node) -> int:
        value = node.meta.get("val")
        return value.numel() if isinstance(value, Tensor) and node.name not in constants else 0

    most = max(
        (floats(node) + sum(map(floats, node.all_input_nodes)) for node in graph.nodes if node.op == "call_function"),
        default=0,
    )
    return 4 * most
