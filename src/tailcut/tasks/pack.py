"""Packing of runs, checkpoints and plain weights to .tailcut files."""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tailcut.compression import RateLoss
from tailcut.errors import ArgumentError, DataError
from tailcut.files import write_atomically
from tailcut.format import SaveReport, WriteSettings, inspect, load, write_network
from tailcut.format.container.numbers import QUANTIZED_DTYPE
from tailcut.format.conversion.checkpoints import (
    check_numbers,
    mismatches,
    named_tensors,
    read_state,
    with_tied,
)
from tailcut.format.network.tensors import current_tensors
from tailcut.format.open_network import is_tailcut_file, misfit
from tailcut.format.save import warn_of_unused_dtype
from tailcut.format.save_report import save_report
from tailcut.printing import named, sizes, table
from tailcut.runs import Run
from tailcut.structure import create_model, set_class_names, set_image_size
from tailcut.training.checkpoints import is_checkpoint, newest_checkpoint, read_checkpoint
from tailcut.weights import RegularizationReport, regularize
from tailcut.weights.parametrization.attach import meaning_of
from tailcut.weights.regularization.energy import percent, worth_a_warning

if TYPE_CHECKING:  # it needs an extra, which plain weights do without
    from tailcut.training.recipe.schema import Recipe

VECTOR_PREFIX, VECTOR_SUFFIX = "parametrizations.", ".original"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackReport(SaveReport):
    """Report of `pack`: the file, and the cuts of plain weights.

    Attributes:
        regularization: the tensors that it made coefficients, with the energy that each lost; None where the source is
            truncated already.
    """

    regularization: RegularizationReport | None

    def __str__(self) -> str:
        """Return the cuts as a table, and one line about the file."""
        cut = self.regularization
        if cut is None or cut.num_kept == cut.num_parameters:
            return super().__str__()
        rows = [
            (
                entry.name,
                sizes(entry.shape),
                f"{entry.num_parameters:,}",
                f"{entry.num_kept:,}",
                percent(entry.energy_lost),
            )
            for entry in cut.tensors
        ]
        rows.append(("in all", "", f"{cut.num_parameters:,}", f"{cut.num_kept:,}", percent(cut.energy_lost)))
        cuts = table(("coefficients of", "shape", "numbers", "kept", "energy lost"), rows, align="<<>>>")
        return f"{cuts}\n\n{super().__str__()}"


def pack(
    source: str | Path,
    out: str | Path,
    *,
    dtype: str | None = None,
    other_dtype: str | None = None,
    model: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    keep_ratio: float | None = None,
    num_kept: int | None = None,
    plain: bool = False,
    max_bytes: int | None = None,
    step: float | None = None,
    levels: Sequence[float] = (),
) -> PackReport:
    """Pack a run, a checkpoint or plain weights.

    Nothing is trained here: weights that are cut lose what the coefficients left out have told, and a warning is logged
    where trained weights lose much. Numbers of a quantised .tailcut file are rounded a second time, to other steps, and
    a warning is logged, where no other `dtype` is given.

    Args:
        source: a .tailcut file or "zoo:NAME"; a run folder (its newest checkpoint is packed) or a checkpoint of a run;
            or a state_dict of a registered model (`.safetensors`, or a file of `torch.save`; it is read without running
            code). Of coefficients without torch's metadata, the default axes and order are assumed, with a warning.
        out: the .tailcut file to write.
        dtype: number type of the coefficients; when None "quantized" with `max_bytes` or `step`, else the recipe's,
            for plain weights float32. A training for bytes is packed by the steps that it has learned.
        other_dtype: number type of everything else, likewise.
        model: name of the registered model, for plain weights.
        arguments: its arguments.
        keep_ratio: part of each tensor of plain weights to keep; all when None.
        num_kept: instead of a ratio: coefficients of each tensor of plain weights to keep.
        plain: keep plain weights as they are, without coefficients; such a file can be pruned.
        max_bytes: of a quantised file, see `tailcut.save`.
        step: likewise.
        levels: of a progressive file, likewise; of a run the recipe's when there are none.

    Raises:
        ArgumentError: the arguments do not fit the source.
        DataError: the source cannot be read, or the network that its training started from is not beside it.
    """
    found = _open_source(source, model, arguments or {}, _Cut(keep_ratio, num_kept, plain))
    asked_for = dtype, other_dtype
    is_as_it_was = (dtype, other_dtype, max_bytes, step, tuple(levels)) == (*[None] * 4, ())
    has_steps = (max_bytes, step) != (None, None)
    rounds_again = found.is_file and found.dtype == QUANTIZED_DTYPE and dtype is None and not has_steps
    if dtype is None:
        dtype = QUANTIZED_DTYPE if has_steps else found.dtype
    if other_dtype is None and (dtype != QUANTIZED_DTYPE or rounds_again):
        other_dtype = found.other_dtype
    if found.finished is not None and is_as_it_was:
        written = _copied(found.finished, out)
    elif found.rate_loss is not None and is_as_it_was:
        written = found.rate_loss.save(out, metadata=found.metadata)
    else:
        settings: WriteSettings = {"max_bytes": max_bytes, "step": step, "levels": levels or found.levels}
        settings |= {"other_dtype": other_dtype, "metadata": found.metadata}
        written = write_network(found.network, out, dtype=dtype, **settings)
    warn_of_unused_dtype(written, *asked_for)
    if found.cut is not None:
        _warn_of_loss(found.cut)
    if rounds_again:
        _warn_of_rounding(source)
    if len(levels) and not found.levels:
        _warn_of_levels()
    return PackReport(**vars(written), regularization=found.cut)


def _open_source(source: str | Path, model: str | None, arguments: Mapping[str, Any], cut: "_Cut") -> "_Source":
    """Return the network of a file, a run, a checkpoint or plain weights."""
    path = Path(source)
    is_file = not path.is_dir() and is_tailcut_file(source)
    content: Any = None if is_file else _read_source(path)
    if not is_file and not is_checkpoint(content):
        return _from_weights(path, content, model, arguments, cut)
    if model is not None or arguments or cut.plain or cut.is_named:
        raise ArgumentError(
            f"{source} says itself which network it holds and what is kept: leave out --model, --set-argument, "
            "--keep-ratio, --num-kept and --plain"
        )
    return _from_file(source) if is_file else _from_checkpoint(content, path)


@dataclass(frozen=True)
class _Cut:
    """What plain weights keep: a part, a count, all of the coefficients (neither), or no coefficients (plain)."""

    keep_ratio: float | None
    num_kept: int | None
    plain: bool

    @property
    def is_named(self) -> bool:
        return self.keep_ratio is not None or self.num_kept is not None


@dataclass(frozen=True)
class _Source:
    """A network to pack, the number types and levels to use where none are asked for, and the cut of plain weights.

    Of a training for bytes `rate_loss` has the steps that it has learned; of a run that is finished, `finished` is its
    file. `is_file`: it comes from a .tailcut file.
    """

    network: nn.Module
    dtype: str = "float32"
    other_dtype: str | None = "float32"
    cut: RegularizationReport | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    levels: tuple[float, ...] = ()
    rate_loss: RateLoss | None = None
    finished: Path | None = None
    is_file: bool = False


def _copied(file: Path, out: str | Path) -> SaveReport:
    """Write the file of a finished run again: it has statistics and levels that were measured on the run's data."""
    content, network = file.read_bytes(), load(file)
    write_atomically(out, content)
    return save_report(out, len(content), current_tensors(network))


def _from_file(file: str | Path) -> _Source:
    report = inspect(file)
    dtypes, others = ([entry.dtype for entry in part] for part in (report.tensors, report.other_tensors))
    if not dtypes:  # of a network without coefficients
        dtypes = [dtype for dtype in others if dtype == QUANTIZED_DTYPE] or ["float32"]
    other_dtype = None  # their own
    if dtypes[0] == QUANTIZED_DTYPE and QUANTIZED_DTYPE not in others:  # beside it, None would have them rounded too
        exact = {dtype for dtype in others if "float" in dtype}
        other_dtype = exact.pop() if len(exact) == 1 else "float32"
    return _Source(load(file), dtypes[0], other_dtype, metadata=report.metadata, is_file=True)


def _warn_of_loss(cut: RegularizationReport) -> None:
    if worth_a_warning(cut.energy_lost_of_trained):
        logger.warning(
            "%s of the energy of trained weights was cut away without training, so expect the network to be less "
            "accurate, perhaps by far (tailcut evaluate FILE --data NAME measures it). Train while it is cut: "
            "tailcut train with a recipe whose [start] is these weights and whose [regularization] keeps as few",
            percent(cut.energy_lost_of_trained),
        )


def _warn_of_levels() -> None:
    logger.warning(
        "nothing says that the smaller networks of the file were trained: without that (pack.levels in a recipe, or "
        "NestedLevels in Python) expect them to guess; tailcut evaluate FILE --level 1 --data NAME measures it"
    )


def _warn_of_rounding(source: str | Path) -> None:
    logger.warning(
        "%s holds quantised numbers, which were rounded a second time, to other steps, so expect the network to be "
        "less accurate. Pack or compress the network that it was made of, or keep its numbers in more bytes: "
        "--dtype float32",
        source,
    )


def _read_source(path: Path) -> Any:
    if path.is_dir():
        found = newest_checkpoint(Run(path))
        if found is None:
            raise DataError(f"{path} is no run folder, or its training has not finished an epoch yet")
        return found[1]
    content = read_state(path)
    return read_checkpoint(path) if is_checkpoint(content) else content


def _from_checkpoint(state: Mapping[str, Any], path: Path) -> _Source:
    """Return the network of a checkpoint (RUN/checkpoints/FILE, or RUN for the newest) as it would be packed now."""
    from tailcut.training.ema import MovingAverage  # here: plain weights need no extra
    from tailcut.training.recipe.toml_files import parse_recipe
    from tailcut.training.setup.build import build_model, build_schedule
    from tailcut.training.setup.build_generation import GanNetworks
    from tailcut.training.setup.initial_network import load_start, needs_start

    recipe = parse_recipe(state["recipe"], source="the recipe of the checkpoint")
    run = Run(path if path.is_dir() else path.absolute().parent.parent)
    from_start = needs_start(recipe)
    if from_start and not run.start.is_file():
        raise DataError(
            f"{path}: its training started from another network, which a run keeps as {run.start.name}; expected it at "
            f"{run.start}, where it is not. Put it back, or pack the checkpoint in its own run folder"
        )
    network = build_model(recipe, load_start(run) if from_start else None)
    try:
        network.load_state_dict(state["model"])
    except RuntimeError as error:
        origin = f"the network of {run.start}" if from_start else f"the model {recipe.model.name!r} of its recipe"
        raise DataError(f"the weights of {path} do not fit {origin}: {_reasons(error)}") from error
    if recipe.optimizer.ema_decay is not None:
        average = MovingAverage(network, recipe.optimizer.ema_decay)
        average.load_state_dict(state["average"])
        average.give()
    schedule = build_schedule(recipe, network)
    if schedule is not None and state["epoch"] == recipe.training.epochs:
        schedule.finish()
    if isinstance(network, GanNetworks):
        network = network.generator
    is_finished = state["epoch"] == recipe.training.epochs and run.result.is_file() and run.model.is_file()
    # The statistics of a file of few bytes are corrected for its rounding; the checkpoint's are its network's own.
    if is_finished and recipe.compression is None and recipe.pack.max_bytes is None:
        _take_statistics(network, load(run.model))
    set_class_names(network, state.get("class_names"))
    set_image_size(network, state.get("image_size"), shorter_side=state.get("image_shorter_side"))
    levels = tuple(recipe.pack.levels)
    return _Source(
        network,
        recipe.pack.dtype,
        recipe.pack.other_dtype,
        levels=levels,
        rate_loss=_rate_loss_of(recipe, network, state),
        finished=run.model if is_finished else None,
    )


def _take_statistics(network: nn.Module, finished: nn.Module) -> None:
    """Give a network (it is changed) the running statistics of its run's file, measured after the last cut."""
    measured = dict(finished.named_buffers())
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name in measured and measured[name].shape == buffer.shape:
                buffer.copy_(measured[name])


def _rate_loss_of(recipe: "Recipe", network: nn.Module, state: Mapping[str, Any]) -> RateLoss | None:
    """Return the steps that a training for bytes had learned at its checkpoint; None of another training."""
    section = recipe.compression
    if section is None:
        return None
    # How far it is comes with its state.
    rate_loss = RateLoss(network, target_bytes=section.target_bytes, num_steps=1, start_bytes=section.start_bytes)
    rate_loss.load_state_dict(state["compression"])
    return rate_loss


def _from_weights(path: Path, content: Any, model: str | None, arguments: Mapping[str, Any], cut: _Cut) -> _Source:
    """Return the network of a state_dict, regularised here unless it holds coefficients or stays plain."""
    if model is None:
        raise ArgumentError(f"{path} holds plain weights: name the registered model they belong to with --model")
    if cut.plain and cut.is_named:
        raise ArgumentError("plain weights are kept whole: leave out --keep-ratio and --num-kept, or --plain")
    network, has_coefficients = _network_of(path, named_tensors(content, path), model, arguments)
    if has_coefficients and (cut.is_named or cut.plain):
        raise ArgumentError(f"{path} holds coefficients already: leave out --keep-ratio, --num-kept and --plain")
    if has_coefficients or cut.plain:
        return _Source(network)
    report = regularize(network, keep_ratio=cut.keep_ratio, num_kept=cut.num_kept, warn=False)
    return _Source(network, cut=report)


def _network_of(
    path: Path,
    state: OrderedDict[str, Tensor],
    model: str,
    arguments: Mapping[str, Any],
) -> tuple[nn.Module, bool]:
    """Return the network with these weights, and whether they are coefficients."""
    network = create_model(model, **arguments)
    vectors = {_plain_name(name): value.numel() for name, value in state.items() if _plain_name(name)}
    if vectors:  # the state_dict of a regularised network
        meanings = {_plain_name(name): meaning_of(state, name) for name in state if _plain_name(name)}
        _warn_of_unknown(
            path, [name for name, found in meanings.items() if not {"axes", "order_weights"} <= found.keys()]
        )
        regularize(
            network, num_kept=vectors, overrides={name: found for name, found in meanings.items() if found}, warn=False
        )
    tied = with_tied(network.state_dict(keep_vars=True), state)
    if tied is not state:
        state.update(tied)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        problems = mismatches(network.state_dict(keep_vars=True), state) or [_reasons(error).rstrip(".")]
        raise misfit(path, model, arguments, "; ".join(problems)) from error
    check_numbers(network, state, path)
    return network, bool(vectors)


def _warn_of_unknown(path: Path, names: Sequence[str]) -> None:
    """Warn that axes and order are guessed: the same numbers with others are another weight, without any error."""
    if names:
        logger.warning(
            "%s does not say which axes and order its coefficients belong to (%s): all axes and order weights of 1 are "
            "assumed, and a network regularised otherwise comes out wrong. A file of torch.save(model.state_dict()) "
            "says it; safetensors and plain dicts do not",
            path,
            named(names, 1),
        )


def _reasons(error: RuntimeError) -> str:
    """Return the message of a `load_state_dict` error on one line, without the name of the class."""
    return " ".join(line.strip() for line in str(error).splitlines()[1:])


def _plain_name(name: str) -> str:
    """`conv.weight` of `conv.parametrizations.weight.original`; empty for any other name."""
    before, prefix, rest = name.rpartition(VECTOR_PREFIX)
    return f"{before}{rest.removesuffix(VECTOR_SUFFIX)}" if prefix and rest.endswith(VECTOR_SUFFIX) else ""
