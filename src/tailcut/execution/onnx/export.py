"""`export_onnx`: a small ONNX file that computes its cosines itself and holds no dense weight of a truncated layer."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tailcut.errors import ArgumentError, MissingExtraError, StructureError
from tailcut.files import check_output_path, write_atomically
from tailcut.inputs.detection.detectors import Detector
from tailcut.inputs.stem.replace import image_shape
from tailcut.printing import Report, silenced, table
from tailcut.structure import as_metadata, check_module, example_shape, in_evaluation, without_views
from tailcut.weights import TruncatedTensor, to_dense, truncated_tensors

if TYPE_CHECKING:
    import onnx_ir as ir

DEFAULT_OPSET = 18  # the oldest that torch's exporter writes; later ones change nothing for these networks
MAX_FILE_BYTES = (1 << 31) - 1  # of a protocol buffer
_NEEDED = ("onnx", "onnx_ir", "onnxscript")


@dataclass(frozen=True)
class ExportedTensor(Report):
    """Storage of one truncated tensor.

    Attributes:
        name: its plain name.
        shape: of the dense tensor.
        num_kept: its coefficients.
        way: "factored": the layer runs as projection, core and expansion, without a dense weight; "rebuilt": the
            file holds coefficients, from which the graph makes the dense weight when it is loaded; "dense": the
            file holds the dense weight, which takes no more than coefficients and the nodes to read them; "unused":
            the network does not use it.
    """

    name: str
    shape: tuple[int, ...]
    num_kept: int
    way: str


@dataclass(frozen=True)
class OnnxExportReport(Report):
    """Report of `export_onnx`.

    Attributes:
        out: the file.
        file_bytes: its size.
        dense_bytes: what the parameters of the dense network take.
        opset: version of ONNX's operators that it needs.
        inputs: shape by name; a size that may vary is a name or a formula of names.
        outputs: likewise.
        tensors: how each truncated tensor is stored.
    """

    out: str
    file_bytes: int
    dense_bytes: int
    opset: int
    inputs: dict[str, tuple[int | str | None, ...]]
    outputs: dict[str, tuple[int | str | None, ...]]
    tensors: tuple[ExportedTensor, ...]

    def __str__(self) -> str:
        shapes = [
            f"{name} ({', '.join('?' if size is None else str(size) for size in shape)})"
            for name, shape in (*self.inputs.items(), *self.outputs.items())
        ]
        rows = [
            (tensor.name, " x ".join(map(str, tensor.shape)), f"{tensor.num_kept:,}", tensor.way)
            for tensor in self.tensors
        ]
        return (
            f"{self.out}: {self.file_bytes:,} bytes (dense weights: {self.dense_bytes:,}), opset {self.opset}, "
            f"{', '.join(shapes)}\n\n{table(('tensor', 'shape', 'kept', 'way'), rows, align='<<><')}"
        )


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    example_input: Any = None,
    opset: int = DEFAULT_OPSET,
    dynamic: bool | Literal["batch"] = True,
    pixels: bool = False,
    tell: Callable[[str], object] = lambda stage: None,
) -> OnnxExportReport:
    """Write `model` as a small ONNX file, for inference; the model is not changed.

    The file holds the coefficients; cosines are computed in the graph, each once. Where that takes fewer
    multiplications, a layer runs as: project the input on a few cosines, small core, expand. Small, not necessarily
    fast: wide maps are written to memory between layers; to run fast in PyTorch there is `fuse`. The network is
    exported in evaluation mode. Batch norm without running statistics takes those of the batch that it is given.
    Inputs have the names of the arguments; outputs those of the keys of a dict or the fields of a dataclass, else
    "output", or "output0" and so on. Of an argument or an output made of several tensors each has its place in its
    name: `past_0_1`. Names of classes that the network knows stand in the model's metadata as `class_names`, a list in
    JSON.

    Args:
        model: a network that `torch.export` can trace, or a view of it that `fuse` made. Without regularised
            tensors it is exported as it is.
        path: the file to write, whole or not at all.
        example_input: a tensor; for a network with several inputs a tuple of arguments, or a dict of them by name. The
            batch is first. Ones of the registered shape for a registered model when None.
            At a batch of 1 the image is taken twice for tracing. Each tensor in it becomes an input, also in lists,
            tuples and dicts; None, numbers and strings stay as they are.
        opset: version of ONNX's operators, from 18.
        dynamic: let every size of the inputs vary that the network lets vary (the report says which: for example
            "batch", "height"). An axis of size 1 in the example never varies, the batch excepted. "batch": only the
            first axis varies, which saves time: each other size is tried and traced too. False: none does.
        pixels: put the network's own input transform into the graph, if it reads frequency channels or YCbCr: its input
            is then "pixels", RGB images (batch, 3, height, width) of 0 to 1, as is `example_input`.
        tell: is told each stage when it begins, for example `print`.

    Returns:
        Size of the file, shapes of inputs and outputs, and how each truncated tensor is stored.

    Raises:
        MissingExtraError: the extra `onnx` is not installed.
        ArgumentError: the example does not fit, or `opset` or `path` is not usable.
        StructureError: the network cannot be traced, returns what is no tensor or has no form in ONNX; the message says
            why.
    """
    _check_packages()
    from onnx_ir.passes import PassError

    from tailcut.execution.onnx.call import Call
    from tailcut.execution.onnx.trace import refusal, trace

    check_output_path(path)  # the export takes up to minutes
    _check_opset(opset)
    if not isinstance(dynamic, bool) and dynamic != "batch":
        raise ArgumentError(f'dynamic must be True, False or "batch", got {dynamic!r}')
    source = _source(model)
    arguments, by_name = _example(source, example_input, pixels=pixels)
    tensors = truncated_tensors(source)
    # Without gradients: where attention has a learned bias, torch.export records another layout of memory with them.
    dense = in_evaluation(to_dense(source)).requires_grad_(False)
    call = Call(dense, arguments, by_name, pixels=pixels)
    with silenced() as loudly:
        program = trace(dense, call, opset=opset, dynamic=dynamic, tell=loudly(tell))
        loudly(tell)("making it small")
        try:
            ways = _shrink(program, tensors, list(source.state_dict()))
        except PassError as error:
            raise refusal(source, error, "torch's exporter to ONNX made a graph that cannot be simplified") from error
        loudly(tell)("writing")
        program.metadata_props.update(as_metadata(source))
        content = _serialized(program)
    write_atomically(path, content)
    return OnnxExportReport(
        out=str(path),
        file_bytes=len(content),
        dense_bytes=sum(value.numel() * value.element_size() for value in dense.parameters()),
        opset=opset,
        inputs=_shapes(program.graph.inputs),
        outputs=_shapes(program.graph.outputs),
        tensors=tuple(
            ExportedTensor(tensor.name, tensor.shape, tensor.num_kept, ways[tensor.name]) for tensor in tensors
        ),
    )


def _check_packages() -> None:
    for package in _NEEDED:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("export_onnx", package, "onnx")


def _source(model: nn.Module) -> nn.Module:
    """Return the network that is written; raise `StructureError` for one of a kind that cannot be."""
    check_module("export_onnx", model)
    source = without_views(model)
    if isinstance(source, torch.jit.ScriptModule):
        raise StructureError("the network is of TorchScript: export the torch.nn.Module that it was made from")
    projecting = [name for name, layer in source.named_modules() if isinstance(layer, nn.LSTM) and layer.proj_size]
    if projecting:  # torch's exporter gives their cells' states the size of the projection: no runtime takes that
        raise StructureError(
            f"{projecting[0] or 'the network'} has proj_size, which torch's exporter to ONNX writes down wrongly"
        )
    if isinstance(source, Detector):
        raise StructureError(
            "a detector finds as many objects as there are, which torch's exporter cannot write down: export its "
            "detector.backbone, which takes example_input=torch.zeros(1, channels, height / 4, width / 4)"
        )
    return source


def _check_opset(opset: int) -> None:
    from onnx.defs import onnx_opset_version

    if isinstance(opset, bool) or not isinstance(opset, int) or not DEFAULT_OPSET <= opset <= onnx_opset_version():
        raise ArgumentError(
            f"opset must be an integer from {DEFAULT_OPSET} to {onnx_opset_version()} (the newest that the installed "
            f"onnx knows), got {opset!r}"
        )


def _example(model: nn.Module, example_input: Any, *, pixels: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of the example call, by place and by name."""
    if example_input is None:
        return (_registered_example(model, pixels=pixels),), {}
    by_name = example_input if isinstance(example_input, Mapping) else {}
    if not all(isinstance(name, str) for name in by_name):
        raise ArgumentError(f"a dict as example_input has the arguments' names as keys, got {list(by_name)!r}")
    several = isinstance(example_input, (tuple, list))
    arguments = tuple(example_input) if several else () if by_name else (example_input,)
    if not any(isinstance(value, Tensor) for value in pytree.tree_leaves((arguments, dict(by_name)))):
        kinds = ", ".join(type(value).__name__ for value in (*arguments, *by_name.values())) or "nothing"
        raise ArgumentError(
            f"example_input must be a tensor, or a tuple or dict of arguments with tensors, got {kinds}"
        )
    return arguments, dict(by_name)


def _registered_example(model: nn.Module, *, pixels: bool) -> Tensor:
    shape = example_shape(model)
    if shape is None:
        raise ArgumentError(
            "export_onnx needs example_input for a network that is not registered: a tensor of a shape that the "
            "network takes, batch first; or a tuple of arguments, or a dict of them by name"
        )
    if pixels:
        shape = (shape[0], *(image_shape(model) or shape[1:]))
    like = next(model.parameters(), torch.empty(0))
    return torch.ones(shape, dtype=like.dtype, device=like.device)


def _shrink(program: "ir.Model", tensors: Sequence[TruncatedTensor], names: Sequence[str]) -> dict[str, str]:
    """Replace dense weights by their stored parts (in place). Returns the form of each tensor, by name."""
    from onnxscript.optimizer import optimize_ir

    from tailcut.execution.onnx.layers import split_layers
    from tailcut.execution.onnx.statistics import compute_statistics_exactly
    from tailcut.execution.onnx.tidy import name_axes, name_outputs, tidy
    from tailcut.execution.onnx.weights import Corner, WeightNodes

    graph = program.graph
    outputs = [str(output.name) for output in graph.outputs]
    weights = []
    for tensor in tensors:
        for name in (tensor.name, *tensor.aliases):
            if name in graph.initializers:
                # As an input, a weight is left alone by the folding of constants.
                value = graph.initializers.pop(name)
                weights.append((tensor, value, value.const_value))
                value.const_value = None
                graph.inputs.append(value)
    optimize_ir(program)
    nodes = WeightNodes()
    ways = {tensor.name: "unused" for tensor in tensors}
    for tensor, value, dense in weights:
        graph.inputs.remove(value)
        corner = Corner.of(tensor)
        if value.uses() and corner.is_smaller:
            split_layers(graph, value, corner, nodes)
            ways[tensor.name] = "factored"
        if value.uses():
            if corner.is_smaller:
                value.replace_all_uses_with(nodes.rebuilt(corner, value))
            else:
                value.const_value = dense
                graph.register_initializer(value)
            ways[tensor.name] = "rebuilt" if corner.is_smaller else "dense"
    compute_statistics_exactly(graph, nodes)
    nodes.insert(graph)
    name_outputs(graph, outputs)
    name_axes(program, _axis_names(graph.inputs))
    tidy(program, [*names, *(tensor.name for tensor in tensors)])
    name_outputs(graph, outputs)
    return ways


def _axis_names(inputs: "Sequence[ir.Value]") -> dict[str, str]:
    """Return a readable name for each symbol in the shapes of the inputs."""
    spatial = {3: ("length",), 4: ("height", "width"), 5: ("depth", "height", "width")}
    names: dict[str, str] = {}
    for value in inputs:
        shape = () if value.shape is None else tuple(value.shape)
        words = {0: "batch", **dict(enumerate(spatial.get(len(shape), ()), start=2))}
        for axis, size in enumerate(shape):
            if isinstance(size, int) or size.value is None or str(size.value) in names:
                continue
            word = words.get(axis, f"{value.name}_{axis}")
            names[str(size.value)] = f"{value.name}_{axis}" if word in names.values() else word
    return names


def _shapes(values: "Sequence[ir.Value]") -> dict[str, tuple[int | str | None, ...]]:
    return {
        str(value.name): tuple(
            size if isinstance(size, int) else None if size.value is None else str(size.value)
            for size in (value.shape or ())
        )
        for value in values
    }


def _serialized(program: "ir.Model") -> bytes:
    import onnx
    import onnx_ir as ir

    num_bytes = sum(value.const_value.nbytes for value in program.graph.initializers.values() if value.const_value)
    if num_bytes > MAX_FILE_BYTES:
        raise ArgumentError(
            f"the file would hold {num_bytes:,} bytes of parameters, more than one ONNX file can; regularise more of "
            "the network's tensors"
        )
    proto = ir.to_proto(program)
    values = (*program.graph.inputs, *program.graph.initializers.values())
    if any(value.dtype == ir.DataType.BFLOAT16 for value in values):
        raise StructureError(
            "the network has numbers of bfloat16, for which ONNX and its runtimes lack most operations: export "
            "network.float(), with an example_input of float32"
        )
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content
