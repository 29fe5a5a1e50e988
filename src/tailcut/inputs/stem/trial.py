"""Search for a stem on a copy of the network, by a forward of pixels and then of channels."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError, StructureError
from tailcut.inputs.selection.patterns import NUM_CHANNELS
from tailcut.inputs.stem import surgery
from tailcut.inputs.stem.edit import MAX_MAP_SIZE, SWITCHES, Projection, ReplaceStemEdit, Resized, Setting
from tailcut.inputs.stem.trace import ModuleTrace, modules_before, run
from tailcut.inputs.transform.input_transform import TRANSFORM
from tailcut.structure.outputs import output_tensors

_log = logging.getLogger(__name__)


def runs_transform(trial: nn.Module, run_it: Callable[[], Any]) -> bool:
    """Return whether `trial` (changed) runs its children, a transform among them, in order like `nn.Sequential`."""
    calls: list[bool] = []
    probe = nn.Identity()  # where the transform shall hang
    probe.register_forward_pre_hook(lambda *_: calls.append(True))
    trial.add_module(TRANSFORM, probe)
    try:
        run_it()
    finally:
        delattr(trial, TRANSFORM)
    return bool(calls)


def found(edit: ReplaceStemEdit, trial: nn.Module, boundary: str, example: Tensor) -> ReplaceStemEdit:
    """Return the edit completed by the shapes of two forwards, of pixels and of channels. Changes `trial`."""
    trace = run(trial, example, what="the example input", advise=advise_example)
    if boundary not in trace.starts:
        raise ArgumentError(f"first: {boundary} does not run in the forward; name a module that is called")
    shape = trace.inputs.get(boundary)
    if shape is None or len(shape) != 4:
        raise StructureError(f"{boundary} must be called with one tensor (batch, channels, height, width), got {shape}")
    if max(shape[2:]) > MAX_MAP_SIZE:
        raise ArgumentError(f"{boundary} gets maps of {shape[2]} x {shape[3]}: give an example_input of fewer pixels")
    removed = modules_before(trial, trace, boundary, inclusive=False)
    if edit.entry is not None and not removed:
        raise StructureError(f"nothing runs before {boundary}, so that a gate has no place: put an nn.Identity() there")
    for setting in edit.settings:
        trial.get_submodule(setting.name).stride = (setting.value, setting.value)  # type: ignore[assignment]
    for name in removed:
        surgery.replace(trial, name, nn.Identity())
    # Channels have two signs: a functional relu would let positive ones pass.
    x = noise((1, edit.selection.num_channels, *shape[2:]), surgery.like_model(trial)) - 0.5
    widths = _Widths(trace)
    with widths.fitted(trial), arrives(trial, boundary, x):
        advise = partial(_advice, boundary, shape[1])
        inside = runs_transform(trial, lambda: run(trial, x, what="a tensor of channels", advise=advise))
    if x.shape[1] != shape[1] and not widths.resized:
        raise StructureError(
            f"{boundary} was called with {tuple(shape)}, and no layer from there on reads {shape[1]} channels: these "
            "maps seem to have their channels last, and frequency channels are (batch, channels, height, width); name "
            "a module that reads such maps, for example the convolution of the patches"
        )
    if inside and not removed:
        raise StructureError(
            f"nothing runs before {boundary}, so that the transform has no place: put an nn.Identity() before it"
        )
    return replace(
        edit,
        removed=tuple(removed),
        inside=inside,
        resized=tuple(widths.resized),
        projections=tuple(widths.projections),
        settings=(*edit.settings, *widths.settings),
        map_size=(shape[2], shape[3]),
    )


def advise_example(trace: ModuleTrace) -> str:
    """Return what to do about an example that does not run through the network, the end of a message."""
    return "; give pixels that it takes, example_input=torch.rand(1, 3, height, width)"


def _advice(boundary: str, num_channels: int, trace: ModuleTrace) -> str:
    """Return what to do about channels that do not run through the network, the end of a message."""
    if boundary not in trace.starts:
        return (
            f"; {boundary} was not reached: before it the forward does more than call modules (arithmetic on the three "
            "colours, a reshape?); make these steps modules"
        )
    as_many = f"give as many (inputs.square({num_channels})), " if num_channels <= NUM_CHANNELS else ""
    return (
        f"; the stem gave {boundary} {num_channels} channels: {as_many}name a later module, or let a block that adds "
        f"its input to its output keep an nn.Identity() as {' or '.join(map(repr, surgery.SHORTCUTS))}, which becomes "
        "a projection"
    )


class _Widths:
    """Fits layers to the number of channels that reaches them, while a forward runs."""

    def __init__(self, trace: ModuleTrace) -> None:
        self._trace = trace
        self.resized: list[Resized] = []
        self.projections: list[Projection] = []
        self.settings: list[Setting] = []

    @contextmanager
    def fitted(self, trial: nn.Module) -> Iterator[None]:
        """Within the block, forwards of `trial` change its layers."""
        with ExitStack() as hooks:
            for name, module in trial.named_modules():
                if name in self._trace.inputs:
                    hooks.enter_context(module.register_forward_pre_hook(self._hook(name)))
            yield

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if len(inputs) == 1 and isinstance(inputs[0], Tensor) and inputs[0].ndim > 1:
                self._fit(name, module, inputs[0])

        return hook

    def _fit(self, name: str, module: nn.Module, x: Tensor) -> None:
        num_channels, before = x.shape[1], self._trace.inputs[name]
        wanted = surgery.takes_channels(module)
        if wanted is not None and wanted != num_channels:
            if any(layer.name == name for layer in self.resized):
                raise StructureError(f"{name} is called with different numbers of channels")
            widths = surgery.new_widths(module, num_channels)
            surgery.check_widths(name, module, widths)
            surgery.resize(module, widths)
            self.resized.append(Resized(name, *widths))
        if self._trace.keeps_shape(name) and before[1] != num_channels:
            self._fit_shortcut(name, module, x, before[1])

    def _fit_shortcut(self, name: str, block: nn.Module, x: Tensor, out_channels: int) -> None:
        """Fill or switch off the identity beside a block that no longer keeps the number of channels."""
        for attribute in SWITCHES:
            if getattr(block, attribute, False) is True:
                setattr(block, attribute, False)
                self.settings.append(Setting(name, attribute, 0))
        empty = surgery.empty_shortcut(block)
        if empty is not None:
            setattr(block, empty, surgery.projection(x.shape[1], out_channels, x).eval())
            self.projections.append(Projection(name, empty, x.shape[1], out_channels))


@contextmanager
def arrives(trial: nn.Module, boundary: str, x: Tensor) -> Iterator[None]:
    """Within the block, `StructureError` if the first call of `boundary` gets anything but `x`."""
    sent = x.clone()

    def check(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        handle.remove()
        got = inputs[0]
        same = got is x if x.is_meta else got.shape == sent.shape and torch.equal(got.to(sent.dtype), sent)
        if not same:
            raise StructureError(
                f"between the input and {boundary} the forward does more than call modules (a functional relu, a "
                f"pooling, a reshape?): channels of shape {tuple(sent.shape)} arrive changed, as {tuple(got.shape)}; "
                "make these steps modules, or keep an earlier module"
            )

    with trial.get_submodule(boundary).register_forward_pre_hook(check) as handle:
        yield


def outputs_behind(
    trial: nn.Module, x: Tensor, target: str, features: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Return what `target` gives in its first call, and the outputs of a forward that is known to run.

    Args:
        trial: a copy of the network.
        x: its input.
        target: a module whose output is a tensor.
        features: given in place of what the target gives.
    """
    made: list[Tensor] = []

    def exchange(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        made.append(output.clone())
        if len(made) == 1:
            torch.manual_seed(0)  # whatever was drawn before, networks that draw noise draw the same from here on
        return features.clone() if features is not None and len(made) == 1 else None

    devices = [x.device] if x.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices), trial.get_submodule(target).register_forward_hook(exchange):
        outputs = output_tensors(trial(x.clone()))
    return made[0], [output.clone() for output in outputs]


def check_same_behind(target: str, before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
    """Raise `StructureError` unless the same features of `target` led to the same outputs, of pixels and of channels.

    They do not where the network looks at its input elsewhere too, or at a patch size or a position that it counts in
    pixels. Outputs of another size, and whole numbers, are warned of: they may be made by the size of the input.
    """
    if len(before) != len(after) or any(_is_by_size(old, new) for old, new in zip(before, after, strict=True)):
        _log.warning(
            "with channels in place of pixels the network gives outputs of %s, before of %s: it makes some by the size "
            "of its input",
            *(" and ".join(str(tuple(output.shape)) for output in outputs) for outputs in (after, before)),
        )
    for old, new in zip(before, after, strict=False):
        if old.shape == new.shape and old.is_floating_point() and not _is_close(old, new):
            raise StructureError(
                f"the same output of {target} leads to other outputs on channels than on pixels: the network also "
                "looks at its input elsewhere, or keeps a patch size or positions in pixels, which would be wrong of "
                "channels; give as target a module whose output is all that it goes on with, such as a whole stem of "
                "several branches, or give it these from outside"
            )


def _is_by_size(old: Tensor, new: Tensor) -> bool:
    is_whole = not (old.is_floating_point() or old.is_complex())
    return old.shape != new.shape or (is_whole and not old.is_meta and not torch.equal(old, new))


def _is_close(old: Tensor, new: Tensor) -> bool:
    """Return whether outputs are equal up to rounding beside their largest number; NaN and infinities exactly."""
    if old.is_meta:  # without numbers there is nothing to compare
        return True
    exactness, finite = torch.finfo(old.dtype).eps ** 0.5, old[old.isfinite()]
    spread = float(finite.abs().amax()) if finite.numel() else 0.0
    return torch.allclose(old, new.to(old.dtype), rtol=exactness, atol=exactness * spread, equal_nan=True)


def noise(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Numbers of 0 to 1, always the same, on the device and in the type of `like`."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    return torch.rand(shape, generator=generator, device="cpu").to(device=like.device, dtype=like.dtype)
