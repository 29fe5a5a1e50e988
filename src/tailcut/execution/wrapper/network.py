"""`fuse`: a view of a network that runs its truncated layers without their dense weights."""

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError, StructureError
from tailcut.execution.cpu.compiled import is_installed
from tailcut.execution.ir.cost import Costs
from tailcut.execution.layers.call_key import device_type, sizes_of, tensors_of
from tailcut.execution.lazy import normalization as normalization
from tailcut.execution.lazy import operations as operations
from tailcut.execution.lazy.context import Context, LayerRecord, NotNarrowError, running
from tailcut.execution.lazy.lazy_map import as_tensor
from tailcut.execution.lazy.unsupported import is_autocast, is_traced
from tailcut.execution.wrapper.arguments import copies_of
from tailcut.execution.wrapper.decisions import Call, Decisions, SettledCall, call_of, is_simple
from tailcut.execution.wrapper.programs import NetworkPrograms
from tailcut.execution.wrapper.report import FuseReport, report_of
from tailcut.execution.wrapper.snapshot import ModelSnapshot, try_out
from tailcut.execution.wrapper.view import is_code_of, unwrapped
from tailcut.structure import NetworkView, check_module, example_shape, source_of

ENGINES = ("auto", "torch", "compiled")
# The example is timed only where the dense network's largest map is below this.
TIMING_CAP_BYTES = 1 << 30
TIMING_REPEATS = 5
# What a view has for itself; whatever else the source has is the source's.
_OWN = frozenset(
    {"source", "engine", "strategy", "training", "_assembly", "_decisions", "_records", "_shapes", "_settled"}
)


class FusedNetwork(NetworkView):
    """A network's truncated layers run without their dense weights; everything else runs as it is.

    Made by `fuse`. It shares all parameters and buffers with `source`, whose mode (training or evaluation), device
    and type it follows; so an optimiser of the one trains the other.

    Attributes:
        source: the network itself, unchanged.
        engine: "torch" or "compiled", from the beginning on; see `fuse`.
        way: "auto"; "narrow" takes no layer densely that can run narrowly, whatever it costs, "dense" takes all so.
    """

    def __init__(self, source: nn.Module, *, engine: str = "auto") -> None:
        super().__init__()
        if engine not in ENGINES:
            raise ArgumentError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
        self.source = source
        self.engine = ("compiled" if is_installed() else "torch") if engine == "auto" else engine
        self.strategy = "auto"
        self.training = source.training
        # Not registered: the programs are made of parts of `source`, which is registered.
        self._assembly = NetworkPrograms(source)
        self._decisions = Decisions()
        # None after calls that were taken for dense, for which nothing was counted.
        self._records: list[LayerRecord] | None = []
        self._shapes: tuple[tuple[int, ...], ...] | None = None
        self._settled: SettledCall | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What `forward` gives, with hooks. Where the latest call ran densely, one like it costs one comparison."""
        settled = self.__dict__["_settled"]
        if settled is not None and not kwargs and settled.holds(args):
            return settled.run(*args)
        return super().__call__(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What `source(*args, **kwargs)` gives, up to rounding."""
        if is_traced():  # what is done to decide, and to know whether coefficients changed, would be in it
            return self.source(*args, **kwargs)
        self._assembled()
        self._settled = None
        call = self._call(args, kwargs) if self.strategy == "auto" else None
        if call is not None and self._runs_densely(call):
            result = self._run_dense(args, kwargs)
            if is_simple(call, args, kwargs):
                self._settled = SettledCall(call, self, self._assembly)
            return result
        if call is not None and self._decisions.is_narrow(call):
            before = None
        else:
            before = ModelSnapshot(self.source, args, kwargs)
            if call is not None and not before.arguments.are_plain:
                return self._after_a_trial(call, before, args, kwargs)
        context = None
        try:
            result, context = self._run_narrow(args, kwargs)
        except NotNarrowError as stop:
            self._turn_dense(call, str(stop), before)
        if context is None:  # out of the handler: torch 2.11 undoes a checkpoint's hooks as the error's traceback goes
            return self._run_dense(args, kwargs)
        if before is None or call is None or self._decide(call, context) or not before.can_be_taken_back():
            return result
        del result  # with what its backward pass would have needed
        before.restore()
        return self._run_dense(args, kwargs)

    def __getattr__(self, name: str) -> Any:
        """Attributes of the source but for its methods and modules: its configuration, its numbers, its tensors."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            source = self.__dict__.get("_modules", {}).get("source")
            if source is None or name.startswith("__"):
                raise
        source = unwrapped(source)
        value = getattr(source, name)
        if not is_code_of(source, value):
            return value
        raise AttributeError(
            f"{name!r} of the {type(source).__name__} would run it as it is: source.{name} does so. To have it run a "
            "fused module, put that in the module's place, such as model.body = fuse(model.body)"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        """What the source has, and the view has not, is written to the source."""
        source = self._source_with(name)
        if source is None:
            super().__setattr__(name, value)
        else:
            setattr(source, name, value)

    def __delattr__(self, name: str) -> None:
        """As for writing."""
        source = self._source_with(name)
        if source is None:
            super().__delattr__(name)
        else:
            delattr(source, name)

    def _source_with(self, name: str) -> nn.Module | None:
        """The source if it has the attribute, and the view has not; else None."""
        if name in _OWN or name in self.__dict__ or hasattr(type(self), name):
            return None
        source = self.__dict__.get("_modules", {}).get("source")
        if source is None:
            return None
        source = unwrapped(source)
        places = (source.__dict__, source._parameters, source._buffers, source._modules)
        has_it = hasattr(type(source), name) or any(name in names for names in places)
        return source if has_it else None

    def _assembled(self) -> NetworkPrograms:
        """The programs, made anew where layers were replaced, added, removed or regularised since."""
        source = self.source
        if self._assembly.source is not source or not self._assembly.is_current():
            self._assembly = NetworkPrograms(source)
            self._decisions = Decisions()
        return self._assembly

    def _runs_densely(self, call: Call) -> bool:
        """Whether it is known, or to be expected, that this call does not pay narrowly."""
        if self._decisions.is_dense(call):
            return True
        if self._decisions.is_narrow(call) or not self._decisions.take_for_dense(call):
            return False
        self._records, self._shapes = None, call.shapes
        return True

    def _turn_dense(self, call: Call | None, reason: str, before: ModelSnapshot | None) -> None:
        """Give up a narrow forward: all is put back, and calls like this one run densely from now on."""
        if call is not None:
            self._decisions.settle(call, is_dense=True)
        self._records = self._assembly.records(reason)
        if before is None or not before.can_be_taken_back():
            raise StructureError(f"{reason}, and this call cannot be taken back; the next one will run densely")
        before.restore()

    def _after_a_trial(self, call: Call, before: ModelSnapshot, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the network gives, once copies of its arguments have told how calls like this one are run."""
        problem = self._try_on_copies(call, before, args, kwargs)
        if not problem:
            return self.forward(*args, **kwargs)
        result = self._run_dense(args, kwargs)  # where this fails too, the call was wrong, and nothing is settled
        self._settle_dense(call, problem)
        return result

    def _settle_dense(self, call: Call, reason: str) -> None:
        self._decisions.settle(call, is_dense=True)
        self._records, self._shapes = self._assembly.records(reason), call.shapes

    def _try_on_copies(self, call: Call, before: ModelSnapshot, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Settle how calls like this one are run, where a forward may change an argument, such as a cache.

        Returns what went wrong, where that says nothing about the narrow program: an object may refuse to be copied,
        and code may know its arguments by their identity. Else nothing.
        """
        reason = "not tried: an argument cannot be copied"
        try:
            copies = copies_of(args, kwargs)
            reason = "tried on copies of its arguments"
            _, context = self._run_narrow(*copies)
            self._decide(call, context)
        except NotNarrowError as stop:
            self._settle_dense(call, str(stop))
        except Exception as error:  # noqa: BLE001 - of any object's or network's code
            return f"{reason} ({type(error).__name__}: {error})"
        finally:
            before.restore()
        return ""

    def _decide(self, call: Call, context: Context) -> bool:
        """Settle how calls like this one are run from now on. Returns whether this one was run so already."""
        records = context.records.values()
        is_dense = all(record.strategy == "dense" for record in records)
        if not records or (context.pays() and not is_dense):
            self._decisions.settle(call, is_dense=False)
            return True
        self._decisions.settle(call, is_dense=True)
        if not is_dense:
            for record in records:
                record.turn_dense("the network as a whole would gain too little")
        return is_dense

    def report(self) -> FuseReport:
        """What each regularised layer did in the latest forward (right after `fuse`: that of the example).

        Raises:
            ArgumentError: there was none yet.
        """
        if self._shapes is None:
            raise ArgumentError("nothing to report yet: give fuse an example_input, or run the network once")
        assembly = self._assembled()
        expected = "calls of other sizes that were tried before ran so"
        records = assembly.records(expected) if self._records is None else self._records
        return report_of(records, self._shapes, assembly.layer_names, self.engine)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FusedNetwork":
        self._assembled()  # decisions about layers that are gone are not copied
        copied = FusedNetwork(copy.deepcopy(self.source, memo), engine=self.engine)
        copied.strategy, copied._decisions = self.strategy, self._decisions.copied()
        copied._records, copied._shapes = copy.deepcopy(self._records, memo), self._shapes
        return copied

    def _run_narrow(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Context]:
        """What the narrow program gives, and what was done for it.

        Raises:
            NotNarrowError: the network does something that the program cannot follow.
        """
        assembly = self._assembly
        assembly.freshness.forget()
        context = self._new_run(args, kwargs)
        self._shapes = sizes_of(tensors_of(args, kwargs))
        with running(context):
            for twin in assembly.always_dense:
                context.record(twin.name, "dense", "this kind of layer has no narrow way")
                twin.refresh(context)
            result = as_tensor(assembly.narrow(*args, **kwargs), "it is an output of the network")
            assembly.narrow.settle()
            context.check()
        self._records = list(context.records.values())
        return result, context

    def _run_dense(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assembly, freshness = self._assembly, self._assembly.freshness
        is_current = not torch.is_grad_enabled() and freshness.is_same()
        if not is_current:
            if torch.is_grad_enabled():
                freshness.forget()
            else:
                freshness.note()
            assembly.make_dense(Context(self.engine, "dense", Costs.of("cpu", with_gradients=False)))
        return assembly.dense(*args, **kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """What the ways of a call depend on."""
        return call_of(args, kwargs, kept=self._assembly.kept(), training=self.source.training)

    def _new_run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Context:
        inputs = tensors_of(args, kwargs)
        device = device_type(inputs)
        wants = torch.is_grad_enabled() and any(x.requires_grad for x in (*self.source.parameters(), *inputs))
        costs = Costs.of(device, with_gradients=wants)
        if is_autocast(device):
            return Context(self.engine, "dense", costs, "autocast is on: its types are for dense layers", wants)
        return Context(self.engine, self.strategy, costs, "asked for", wants)

    def prefer_dense(self, *args: Any, **kwargs: Any) -> None:
        """Run inputs of these shapes densely from now on (in the present mode of gradients)."""
        self._assembled()
        self._decisions.prefer_dense(self._call(args, kwargs))
        for record in self._records or ():
            record.turn_dense("timed: dense weights were faster")


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

    Which way a layer takes follows from the sizes of the call and of its corner alone. Batch statistics, running
    statistics, gradients to the coefficients: all as with `model` itself, up to rounding. Under autocast all layers
    run densely, and so do those with backward hooks, those that `torch.func` looks into, and calls in which gradients
    could not pass a map (TorchScript, `torch.vmap`, a `torch.autograd.Function`, `torch.utils.checkpoint`). Second
    derivatives of fused layers are not available. The next call sees layers that were replaced, added or regularised.

    Sizes that come for the first time may be run twice, once to try them. Buffers, attributes of modules, random
    numbers (of torch, NumPy and Python), and lists and dicts among the arguments are put back in between; with
    arguments of other kinds, such as a cache of keys and values, copies are tried. What the network's code does to
    other objects (a list of its own, a file) happens twice. What `torch.compile` wraps is run without it if a truncated
    layer is in it. Without gradients, after eight new sizes that ended dense, others no larger are not tried.

    Args:
        model: any network; regularised by `tailcut.regularize` where there is something to gain.
        example_input: a tensor, or a tuple of arguments, for the first report (and the timing). None: registered
            networks know their example; for others `report` tells of the latest forward.
        engine: "torch": tiles of PyTorch's own products. "compiled": loops compiled by numba (extra `fast`) for
            what they know, on the CPU, with gradients too, where sizes say that they are faster; the first call of a
            shape may have to compile them. "auto": "compiled" if numba is installed, else "torch".
        check_by_timing: time the example both ways, and run inputs of its shape densely if that is faster.

    Returns:
        The fused network; of a view another one of the same network. Parameters, buffers and mode are those of `model`.

    Raises:
        ArgumentError: no network, an unknown engine, or `check_by_timing` without an example.
    """
    check_module("fuse", model)
    fused = FusedNetwork(source_of(model), engine=engine)
    example = _example(fused.source, example_input)
    if example is not None:
        try_out(fused.source, lambda: fused(*example))
        if check_by_timing:
            _check_by_timing(fused, example)
    elif check_by_timing:
        raise ArgumentError("check_by_timing needs an example_input: this network is not a registered one")
    return fused


def pays_in_training(model: nn.Module, *example: Any) -> bool:
    """Whether the cost model runs any layer narrowly in a training step on inputs of these shapes.

    The model is not changed, neither its buffers and attributes nor the state of random numbers; what its code does to
    other objects, in one forward, is done.
    """
    fused = FusedNetwork(model, engine="torch")

    def forward() -> None:
        with torch.enable_grad():
            fused(*example)

    try_out(model, forward)
    return any(layer.strategy != "dense" for layer in fused.report().layers)


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
    # Batch norm in training refuses a single number per channel, which the last map of one image may be.
    batch = 2 if model.training else shape[0]
    return (torch.zeros((batch, *shape[1:]), dtype=parameter.dtype, device=parameter.device),)


def _check_by_timing(fused: FusedNetwork, example: tuple[Any, ...]) -> None:
    layers = fused.report().layers
    largest = max((layer.dense_bytes for layer in layers), default=0)
    if largest > TIMING_CAP_BYTES or all(layer.strategy == "dense" for layer in layers):
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
