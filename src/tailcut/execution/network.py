"""`fuse`: a view of a network that runs its truncated layers without their dense weights."""

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tailcut.errors import ArgumentError, StructureError
from tailcut.execution import normalization as normalization
from tailcut.execution import operations as operations
from tailcut.execution.calls import device_type, sizes_of, tensors_of, words_of
from tailcut.execution.cost import Costs
from tailcut.execution.layers import DenseTwin, narrow_layer
from tailcut.execution.narrow import as_tensor
from tailcut.execution.report import FuseReport, report_of
from tailcut.execution.run import LayerRecord, NotNarrowError, Run, running
from tailcut.execution.trial import Before, try_out
from tailcut.structure import NetworkView, example_shape
from tailcut.weights import TruncatedTensor, truncated_tensors
from tailcut.weights.truncation import Truncation

ENGINES = ("auto", "torch", "compiled")
# The example is timed only where the dense network's largest map is below this.
TIMING_CAP_BYTES = 1 << 30
TIMING_REPEATS = 5
# Their forward reads nothing but their children, so a view of them need not follow their attributes.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class FusedNetwork(NetworkView):
    """A network's truncated layers run without their dense weights; everything else runs as it is.

    Made by `fuse`. It shares all parameters and buffers with `source`, whose mode (training or evaluation), device
    and type it follows; so an optimiser of the one trains the other.

    Attributes:
        source: the network itself, unchanged.
        engine: "auto", "torch" or "compiled"; see `fuse`.
        way: "auto"; "narrow" takes no layer densely that can run narrowly, whatever it costs, "dense" takes all so.
    """

    def __init__(self, source: nn.Module, *, engine: str = "auto") -> None:
        super().__init__()
        if engine not in ENGINES:
            raise ArgumentError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
        self.source = source
        self.engine = engine
        self.way = "auto"
        self.training = source.training
        self._layer_names: list[str] = []
        self._twins: list[DenseTwin] = []
        self._always_dense: list[DenseTwin] = []
        narrow, dense = self._replacements()
        # Not registered: the programs are made of parts of `source`, which is registered.
        self.__dict__["_narrow_program"] = _View(source, narrow)
        self.__dict__["_dense_program"] = _View(source, dense)
        self._vectors: list[dict[str, Any]] = [tensor.holder._parameters for tensor in truncated_tensors(source)]
        self._states = [state for twin in self._twins for state in twin.states()]
        self._dense_signatures: set[object] = set()
        self._narrow_signatures: set[object] = set()
        self._fresh: list[object] | None = None
        self._records: list[LayerRecord] = []
        self._shapes: tuple[tuple[int, ...], ...] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What `source(*args, **kwargs)` gives, up to rounding."""
        signature = self._signature(args, kwargs) if self.way == "auto" else None
        if signature in self._dense_signatures:
            return self._run_dense(args, kwargs)
        is_new = signature is not None and signature not in self._narrow_signatures
        before = Before(self.source, tensors_of(args, kwargs)) if is_new or signature is None else None
        self._fresh = None
        run = self._new_run(args, kwargs)
        self._shapes = sizes_of(tensors_of(args, kwargs))
        try:
            with running(run):
                for twin in self._always_dense:
                    run.record(twin.name, "dense", "this kind of layer has no narrow way")
                    twin.refresh(run)
                result = as_tensor(self.__dict__["_narrow_program"](*args, **kwargs), "it is an output of the network")
                run.check()
                runs_again = is_new and not run.pays() and before is not None and before.inputs_are_as_they_were()
                if runs_again:
                    run.pending.clear()
        except NotNarrowError as stop:
            self._turn_dense(signature, str(stop), before)
            return self._run_dense(args, kwargs)
        self._records = list(run.records.values())
        if before is None or signature is None or self._decide(signature, run) or not runs_again:
            return result
        del result  # with what its backward pass would have needed
        before.restore()
        return self._run_dense(args, kwargs)

    def _turn_dense(self, signature: object, reason: str, before: Before | None) -> None:
        """Give up a narrow forward: all is put back, and calls like this one run densely from now on."""
        if signature is not None:
            self._dense_signatures.add(signature)
        self._records = [LayerRecord(name, "dense", [reason]) for name in self._layer_names]
        if before is None or not before.inputs_are_as_they_were():
            raise StructureError(f"{reason}, and this call cannot be taken back; the next one will run densely")
        before.restore()

    def _decide(self, signature: object, run: Run) -> bool:
        """Settle how calls like this one are run from now on. Returns whether this one was run so already."""
        is_dense = all(record.way == "dense" for record in self._records)
        if not self._records or (run.pays() and not is_dense):
            self._narrow_signatures.add(signature)
            return True
        self._dense_signatures.add(signature)
        if not is_dense:
            for record in self._records:
                record.turn_dense("the network as a whole would gain too little")
        return is_dense

    def report(self) -> FuseReport:
        """What each regularised layer did in the latest forward (right after `fuse`: that of the example).

        Raises:
            ArgumentError: there was none yet.
        """
        if self._shapes is None:
            raise ArgumentError("nothing to report yet: give fuse an example_input, or run the network once")
        return report_of(self._records, self._shapes, self._layer_names)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FusedNetwork":
        copied = FusedNetwork(copy.deepcopy(self.source, memo), engine=self.engine)
        copied._records, copied._shapes = copy.deepcopy(self._records, memo), self._shapes
        return copied

    def _run_dense(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if torch.is_grad_enabled() or self._fresh is None or self._fresh != self._state():
            run = Run(self.engine, "dense", Costs.of("cpu", with_gradients=False))
            for twin in self._twins:
                twin.refresh(run)
            self._fresh = None if torch.is_grad_enabled() else self._state()
        return self.__dict__["_dense_program"](*args, **kwargs)

    def _state(self) -> list[object] | None:
        """What changes whenever a coefficient does; None where that cannot be told."""
        found = [state() for state in self._states]
        return None if None in found else found

    def _signature(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        """What the ways of a call depend on."""
        tensors = tensors_of(args, kwargs)
        shapes = sizes_of(tensors), tuple([(tensor.layout, tensor.device) for tensor in tensors])
        words = words_of(args, kwargs)
        device = device_type(tensors)
        kept = sum([vector["original"].numel() for vector in self._vectors])
        return shapes, words, kept, self.source.training, torch.is_grad_enabled(), torch.is_autocast_enabled(device)

    def _new_run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run:
        inputs = tensors_of(args, kwargs)
        device = device_type(inputs)
        wants = torch.is_grad_enabled() and any(x.requires_grad for x in (*self.source.parameters(), *inputs))
        costs = Costs.of(device, with_gradients=wants)
        if torch.is_autocast_enabled(device):
            return Run(self.engine, "dense", costs, "autocast is on: its types are for dense layers", wants)
        return Run(self.engine, self.way, costs, "asked for", wants)

    def _replacements(self) -> tuple[dict[int, nn.Module], dict[int, nn.Module]]:
        """What stands for the regularised modules: in the narrow program, and in the dense one."""
        narrow: dict[int, nn.Module] = {}
        dense: dict[int, nn.Module] = {}
        known = {id(tensor.truncation): tensor for tensor in truncated_tensors(self.source)}
        for name, module in self.source.named_modules():
            tensors = _regularised(module, known)
            if not tensors:
                continue
            twin = DenseTwin(module, name, tensors)
            self._twins.append(twin)
            self._layer_names.append(name)
            dense[id(module)] = twin.module
            layer = narrow_layer(module, name, tensors["weight"], twin) if "weight" in tensors else None
            if layer is None:  # not the same twin: its children are narrow in one program, dense in the other
                twin = DenseTwin(module, name, tensors, like=twin)
                self._always_dense.append(twin)
            narrow[id(module)] = twin.module if layer is None else layer
        return narrow, dense

    def prefer_dense(self, *args: Any, **kwargs: Any) -> None:
        """Run inputs of these shapes densely from now on (in the present mode of gradients)."""
        signature = self._signature(args, kwargs)
        self._dense_signatures.add(signature)
        self._narrow_signatures.discard(signature)
        for record in self._records:
            record.turn_dense("timed: dense weights were faster")


class _View:
    """A network in which some modules are replaced; all others share their state with the original."""

    def __init__(self, source: nn.Module, replacements: dict[int, nn.Module]) -> None:
        self._replacements = replacements
        self._pairs: list[tuple[nn.Module, nn.Module]] = []
        self._known: dict[int, nn.Module] = {}
        self._root = self._view(source)
        self._shared = [
            (view.__dict__, original.__dict__, view._modules, {"_modules", *_own_names(original)})
            for original, view in self._pairs
            if type(original) not in _CONTAINERS
        ]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for mine, theirs, modules, own_names in self._shared:
            mine.update(theirs)
            mine["_modules"] = modules
            if len(mine) >= len(theirs) + len(own_names):
                _remove(mine, theirs, own_names)
        before = [_identities(mine) for mine, *_ in self._shared]
        result = self._root(*args, **kwargs)
        for (mine, theirs, _, own_names), identities in zip(self._shared, before, strict=True):
            if _identities(mine) != identities:
                _write_back(mine, theirs, own_names)
        return result

    def _view(self, module: nn.Module) -> nn.Module:
        if id(module) not in self._known:
            self._known[id(module)] = self._replacements.get(id(module)) or self._copied(module)
            replaced = self._known[id(module)]
            if id(module) in self._replacements:
                self._known[id(replaced)] = replaced
                for key, child in list(replaced._modules.items()):
                    replaced._modules[key] = None if child is None else self._view(child)
                if type(replaced) is type(module).__bases__[0]:
                    self._pairs.append((module, replaced))
        return self._known[id(module)]

    def _copied(self, module: nn.Module) -> nn.Module:
        if not any(id(part) in self._replacements for part in module.modules()):
            return module
        view = module.__class__.__new__(module.__class__)
        view.__dict__ = dict(module.__dict__)
        view._modules = {key: None if child is None else self._view(child) for key, child in module._modules.items()}
        self._pairs.append((module, view))
        return view


def _own_names(original: nn.Module) -> list[str]:
    """The attributes that a view of a regularised module has for itself: its dense weights."""
    return list(getattr(original, "parametrizations", ()))


def _identities(attributes: dict[str, Any]) -> list[int]:
    return list(map(id, attributes.values()))


def _remove(attributes: dict[str, Any], others: dict[str, Any], own_names: set[str]) -> None:
    """Remove what others have not, but for own ones."""
    for name in attributes.keys() - others.keys() - own_names:
        del attributes[name]


def _write_back(mine: dict[str, Any], theirs: dict[str, Any], own_names: set[str]) -> None:
    """Give the module itself what a forward wrote to attributes of its view: counters, auxiliary losses, caches."""
    _remove(theirs, mine, own_names)
    for name, value in mine.items():
        if name not in own_names and theirs.get(name, mine) is not value:
            theirs[name] = as_tensor(value, "the network keeps it in an attribute")


def fuse(
    model: nn.Module,
    example_input: Any = None,
    *,
    engine: str = "auto",
    check_by_timing: bool = False,
) -> FusedNetwork:
    """A view of `model` that runs its truncated layers without their dense weights; the model is not changed.

    A truncated weight is exactly low-rank: the layer projects its input channels on a few cosines, runs a tiny core
    and expands the result by a few cosines. Between two such layers the wide map is a function of a few numbers per
    pixel (batch norm, activations, pooling, sums, concatenations included), so it is made tile by tile, used and
    dropped. What cannot run so runs densely, layer by layer, and `report` names it with the reason.

    Which way a layer takes follows from the sizes of the call and of its corner alone. Batch statistics,
    running statistics, gradients to the coefficients: all as with `model` itself, up to rounding. Under autocast all
    layers run densely, and so do calls in which gradients could not pass a map (TorchScript, `torch.vmap`, a
    `torch.autograd.Function`). Second derivatives of fused layers are not available.

    Args:
        model: any network; regularised by `tailcut.regularize` where there is something to gain.
        example_input: a tensor, or a tuple of arguments, for the first report (and the timing). None: registered
            networks know their example; for others `report` tells of the latest forward.
        engine: "torch": tiles of PyTorch's own products. "compiled": loops compiled by numba (extra `fast`) for
            what they know, on the CPU, with gradients too, where sizes say that they are faster. "auto": compiled
            loops once a process has done so much work in tiles that the compiler pays, if numba is installed.
        check_by_timing: time the example both ways, and run inputs of its shape densely if that is faster.

    Returns:
        The fused network. It shares parameters, buffers and mode with `model`.

    Raises:
        ArgumentError: an unknown engine, or `check_by_timing` without an example.
    """
    fused = FusedNetwork(model, engine=engine)
    example = _example(model, example_input)
    if example is not None:
        try_out(fused.source, lambda: fused(*example))
        if check_by_timing:
            _check_by_timing(fused, example)
    elif check_by_timing:
        raise ArgumentError("check_by_timing needs an example_input: this network is not a registered one")
    return fused


def pays_in_training(model: nn.Module, *example: Any) -> bool:
    """Whether the cost model runs any layer narrowly in a training step on inputs of these shapes.

    The model is not changed, neither its buffers nor the state of random numbers.
    """
    fused = FusedNetwork(model, engine="torch")

    def forward() -> None:
        with torch.enable_grad():
            fused(*example)

    try_out(model, forward)
    return any(layer.way != "dense" for layer in fused.report().layers)


def _regularised(module: nn.Module, known: dict[int, TruncatedTensor]) -> dict[str, TruncatedTensor]:
    """The regularised parameters of the module itself, by attribute."""
    if not parametrize.is_parametrized(module):
        return {}
    lists = module.parametrizations
    if not isinstance(lists, nn.ModuleDict):
        raise StructureError(f"{type(module).__name__}.parametrizations was changed by hand")
    found = {}
    for attribute, holder in lists.items():
        first = holder[0] if isinstance(holder, parametrize.ParametrizationList) else None
        if isinstance(first, Truncation):
            found[attribute] = known[id(first)]
    return found


def _example(model: nn.Module, example_input: Any) -> tuple[Any, ...] | None:
    if isinstance(example_input, Tensor):
        return (example_input,)
    if example_input is not None:
        if not isinstance(example_input, (tuple, list)):
            kind = type(example_input).__name__
            raise ArgumentError(f"example_input must be a tensor or a tuple of the forward's arguments, got {kind}")
        return tuple(example_input)
    shape = example_shape(model)
    parameter = next(model.parameters(), None)
    if shape is None or parameter is None or parameter.is_meta:
        return None
    # Batch norm in training refuses a single number per channel, which the last map of one picture may be.
    batch = 2 if model.training else shape[0]
    return (torch.zeros((batch, *shape[1:]), dtype=parameter.dtype, device=parameter.device),)


def _check_by_timing(fused: FusedNetwork, example: tuple[Any, ...]) -> None:
    layers = fused.report().layers
    largest = max((layer.dense_bytes for layer in layers), default=0)
    if largest > TIMING_CAP_BYTES or all(layer.way == "dense" for layer in layers):
        return
    records, shapes = fused._records, fused._shapes

    def timed(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        try_out(fused.source, call)
        return time.perf_counter() - start

    # By turns, so that a busy moment of the machine meets both.
    pairs = [
        (timed(lambda: fused(*example)), timed(lambda: fused._run_dense(example, {}))) for _ in range(TIMING_REPEATS)
    ]
    narrow, dense = (min(times) for times in zip(*pairs, strict=True))
    fused._records, fused._shapes = records, shapes
    if dense < narrow:
        with torch.no_grad():
            fused.prefer_dense(*example)
