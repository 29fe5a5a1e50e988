"""`RateLoss`: training for bytes, in the user's own loop."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from tailcut.arguments import check_positive, check_seed
from tailcut.compression.rate.byte_target import ByteTarget
from tailcut.compression.rate.laplace import laplace_bits
from tailcut.compression.rate.lattices import Lattices, trained_tensors
from tailcut.compression.rate.reference import LEAST_STEP, Reference, codable, times
from tailcut.compression.rate.rounding import RoundedParameters
from tailcut.compression.sensitivity.fisher import Drawn, measure_sensitivity
from tailcut.errors import ArgumentError
from tailcut.files import check_output_path
from tailcut.format.container.numbers import QUANTIZED, QUANTIZED_DTYPE
from tailcut.format.encoder.quantization import (
    RELATIVE_STEP,
    coarsest_eighth,
    completed,
    default_sensitivity,
    finest_eighth,
    naming_exact,
    types_of_others,
)
from tailcut.format.encoder.sensitivity import Sensitivity
from tailcut.format.encoder.step_search import coarsest_fitting, finest_step
from tailcut.format.network.tensors import current_tensors
from tailcut.format.quantized.values import STEPS_PER_OCTAVE
from tailcut.format.save import ContentSettings, check_finite, encode_network, save
from tailcut.format.save_report import SaveReport
from tailcut.model_inputs import Loader
from tailcut.structure import check_module, check_not_shared, deepcopied, in_evaluation, without_views
from tailcut.transform.exact import check_has_float64
from tailcut.weights.parametrization.tails import cut_empty_tails, cut_to

SEEDS, LARGEST_SEED = 1 << 32, 1 << 63
"""The noise of a run begins at its seed times this, modulo the largest that a generator takes."""

MAX_COARSER = 6
"""Octaves by which the curvature of what is not trained may fall where a file is a little too large; steps by half."""

LEARNED = 0.7
"""The part of the run in which the steps are learned, between the eighths too: where a step jumped from one eighth to
the next, all numbers of its tensor would jump. Then the steps are those of the file, and the numbers settle on them."""

DEAD = 0.99
"""The part of a network's numbers without which it is dead; shifts alone may be left."""

READERS = "_rate_losses"
"""Attribute of an optimiser: the modules that read its learning rates in steps already."""

START_BYTES = 3
"""The goal at the start, in parts of that at the end."""


class RateLoss(nn.Module):
    """The size of a network's file as a part of the loss: training for bytes.

    Within `rounded()` the network computes with rounded numbers. Gradients go straight through the rounding, and the
    call gives what the bytes cost: the bits of a discretised Laplace distribution whose spread follows the neighbours
    of each number, as the file's coder has it, times a weight that is controlled so that the run ends at
    `target_bytes`. The steps are learned, until they are fixed as those of the file after 70 % of the run.

        rate_loss = tailcut.RateLoss(model, target_bytes=1500, num_steps=epochs * len(loader))
        optimizer = rate_loss.optimizer(torch.optim.Adam, lr=0.01)
        for images, labels in batches:
            optimizer.zero_grad()
            with rate_loss.rounded():
                loss = cross_entropy(model(images), labels) + rate_loss()
                loss.backward()
            optimizer.step()
        rate_loss.save("small.tailcut", images)

    Trained are all coefficients and all parameters that want a gradient: weights, biases, gains and shifts.

    Args:
        model: a network, truncated or not, trained or not. Coefficients must keep their number from here on.
        target_bytes: of the whole file at the end.
        num_steps: how many times the loss will be computed in the whole run.
        sensitivity: how much each number matters, which sets the first steps (`tailcut.measure_sensitivity` of a
            trained network); None goes by magnitudes, for a fresh one.
        start_bytes: the goal at the start, which falls over the first 40 % of the run; three times the target when
            None.
        seed: of the noise in the estimate.

    Raises:
        ArgumentError: a number is out of range, no parameter wants a gradient, or no step makes the file as small as
            `start_bytes`.

    Attributes:
        log_steps: parameter, (tensors,), base-2 logarithms of the steps.
        trained: the tensors that are trained.
        target: how far the run is: bytes, goal and weight.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        target_bytes: int,
        num_steps: int,
        sensitivity: Sensitivity | None = None,
        start_bytes: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_module("RateLoss", model)
        check_has_float64("RateLoss", model)
        target_bytes = check_positive("target_bytes", target_bytes)
        self._held = (without_views(model),)  # no part of this module
        self._seed = check_seed(seed)
        tensors = current_tensors(self._model)
        tensors.check_numbers()
        check_not_shared("training for bytes", tensors.named())
        self.trained = trained_tensors(tensors)
        if not self.trained:
            raise ArgumentError("no parameter of the network wants a gradient: there is nothing to train for bytes")
        self._lattices, self._rounding = Lattices(self.trained), RoundedParameters(self.trained)
        transforms = {tensor.name: tensor.transform for tensor in self.trained}
        usual = default_sensitivity(tensors)
        found = completed(usual if sensitivity is None else sensitivity, tensors)
        found = replace(found, blocks=(), rows={}, transforms=transforms)
        coarsest = coarsest_eighth(found, tensors)
        with naming_exact(tensors):
            coarsest_fitting(lambda step: self._packed_bytes(step, found), target_bytes, coarsest)
        if start_bytes is None:
            start_bytes = self._usual_start(target_bytes, found, is_trained=sensitivity is not None)
        if check_positive("start_bytes", start_bytes) < target_bytes:
            raise ArgumentError(f"start_bytes={start_bytes} is less than target_bytes={target_bytes}: it falls to that")
        finest = finest_eighth(found, tensors)
        step = finest_step(lambda size: self._packed_bytes(size, found), start_bytes, finest=finest, coarsest=coarsest)
        # In units of the network's first step, so that a step of 1 is the first.
        found = times(found, 1 / step**2)
        known = [found.curvature[tensor.name] for tensor in self.trained if tensor.name in found.curvature]
        middle = median(known) if known else 1.0  # for tensors of zeros, of which nothing is known
        sizes = [found.curvature.get(tensor.name, middle) ** -0.5 for tensor in self.trained]
        self.log_steps = nn.Parameter(
            torch.tensor(sizes, dtype=torch.float32, device="cpu").log2().to(self.trained[0].parameter.device)
        )
        start = float(self._packed_bytes(1.0, found))
        self.target = ByteTarget(start, target_bytes, check_positive("num_steps", num_steps))
        self._numbers: Tensor | None = None
        self._costs_have_gradients = False
        self._reference = self._referred(found)

    def _usual_start(self, target_bytes: int, sensitivity: Sensitivity, *, is_trained: bool) -> int:
        """Return the goal at the start where none is given."""
        usual = START_BYTES * target_bytes
        if is_trained:
            return usual
        # The low digits of untrained numbers are worth nothing.
        return min(usual, max(self._packed_bytes(RELATIVE_STEP, sensitivity), 3 * target_bytes // 2))

    def optimizer(
        self, kind: Callable[..., torch.optim.Optimizer], *, lr: float = 0.01, step_lr: float = 0.02, **settings: Any
    ) -> torch.optim.Optimizer:
        """Return an optimiser of all that is trained, whose learning rates are in steps.

        A tensor's numbers move by `lr` of its step at most, whatever their size: its rate is multiplied by the step, as
        it is just then, whenever the optimiser steps. Schedulers of the learning rate do what they always do.

        Args:
            kind: the class, one with steps of a size of its own, such as `torch.optim.Adam`.
            lr: of all numbers, in steps.
            step_lr: of the steps' logarithms, in octaves.
            settings: of the class.

        Raises:
            ArgumentError: `kind` is an optimiser, or nothing that makes one.
        """
        if not callable(kind):
            given = kind if isinstance(kind, str) else type(kind).__name__
            raise ArgumentError(f"expected the class of an optimiser, such as torch.optim.Adam, got {given}")
        groups: list[dict[str, Any]] = [{"params": [tensor.parameter], "lr": lr} for tensor in self.trained]
        optimizer = kind([*groups, {"params": [self.log_steps], "lr": step_lr}], **settings)
        self.use(optimizer)
        return optimizer

    def use(self, optimizer: torch.optim.Optimizer) -> None:
        """Read the learning rates of an optimiser in steps.

        Its first groups are the tensors, one each, in order, and then the steps, as `optimizer` makes them; the rates
        of further groups, such as those of a teacher's projection, are what they are.

        Raises:
            ArgumentError: it has fewer groups.
        """
        if len(optimizer.param_groups) <= len(self.trained):
            raise ArgumentError(
                f"expected an optimiser with {len(self.trained) + 1} groups of parameters, one for each trained tensor "
                f"and one for the steps, got {len(optimizer.param_groups)}: RateLoss.optimizer makes it"
            )
        readers = vars(optimizer).setdefault(READERS, [])
        if any(reader is self for reader in readers):
            return
        readers.append(self)
        given: list[tuple[dict[str, Any], float, float]] = []  # group, its rate, and that of the step now

        def before(_: object, args: object, settings: object) -> None:
            after(_, args, settings)  # a step that failed has left its rates
            for group, size in zip(optimizer.param_groups, [*self.step_sizes().tolist(), 1.0], strict=False):
                given.append((group, group["lr"], group["lr"] * size))
                group["lr"] = group["lr"] * size

        def after(_: object, args: object, settings: object) -> None:
            for group, lr, scaled in given:
                if group["lr"] is scaled or group["lr"] == scaled:  # nobody has set another one since
                    group["lr"] = lr
            given.clear()

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)

    def step_sizes(self) -> Tensor:
        """Return the steps, (tensors,): as they are learned, in the last part of the run those of the file."""
        return self._file_steps() if self.has_fixed_steps else torch.exp2(self.log_steps)

    @property
    def has_fixed_steps(self) -> bool:
        """Whether the run is in its last part, in which the steps are whole eighths of an octave, and not learned."""
        return self.target.num_done >= LEARNED * self.target.num_steps

    def _file_steps(self) -> Tensor:
        return torch.exp2(torch.round(STEPS_PER_OCTAVE * self.log_steps.detach()) / STEPS_PER_OCTAVE)

    @property
    def _model(self) -> nn.Module:
        return self._held[0]

    @property
    def is_rounded(self) -> bool:
        """True within a block of `rounded()`."""
        return self._rounding.numbers is not None

    @contextmanager
    def rounded(self) -> Iterator[None]:
        """Give the network its rounded numbers within the block (changes the model, and back).

        Gradients of a `backward` within the block go to the numbers behind, and to the steps.

        Raises:
            ArgumentError: the block is within another; or the cost of the bytes was taken in it and `backward` was not
                called; or the numbers of the network have become 0, and no gradient brings one back.
        """
        with self._rounding.kept() as numbers:
            try:
                self._keep_codable(numbers)
                errors, is_used = self._rounding.round(self.step_sizes().detach())
                yield
                self._collect_gradients(errors, is_used)
            finally:
                self._numbers = None

    def forward(self) -> Tensor:
        """Return the cost of the bytes, a scalar to add to the loss; within `rounded()`. Counts as a step of the run.

        Raises:
            ArgumentError: it is called outside.
        """
        numbers, spread = self._rounding.numbers, self._rounding.spread
        if numbers is None:
            raise ArgumentError("call the RateLoss within `with rate_loss.rounded():`, as the network")
        self._numbers = numbers.detach().requires_grad_()
        steps = self._numbers / spread(self.step_sizes())  # float32 at least, as the steps are
        offsets = [t.offset(part) for t, part in zip(self.trained, self._rounding.split(steps.detach()), strict=True)]
        steps = steps - spread(torch.stack(offsets))
        generator = torch.Generator().manual_seed((SEEDS * self._seed + self.target.num_done) % LARGEST_SEED)
        noise = torch.rand(steps.shape, generator=generator, device="cpu").to(steps) - 0.5
        means = self._lattices.means(torch.round(steps.detach()).abs())
        num_bytes = laplace_bits(steps + noise, means).sum(dtype=torch.float64) / 8
        self.target.follow(float(num_bytes.detach()), lambda: self._packed_bytes(1.0, self.sensitivity()))
        self._costs_have_gradients = num_bytes.requires_grad
        return (self.target.price * num_bytes).float()

    def sensitivity(self, measured: Sensitivity | None = None) -> Sensitivity:
        """Return the learned steps, for `tailcut.save(..., dtype="quantized", step=1.0, sensitivity=...)`.

        Args:
            measured: of the network as it is now: for numbers that are not trained, and for rounding with error
                feedback. None: as at the start, in steps that have grown as those of the trained ones.
        """
        now, counts = self.log_steps.detach(), torch.tensor(self._lattices.counts, device="cpu").to(self.log_steps)
        if measured is None:
            measured, wider = self._rescaled()
        else:
            curvature = [measured.curvature.get(tensor.name, 0.0) for tensor in self.trained]
            known = torch.tensor(curvature, dtype=torch.float64, device="cpu").to(now.device)
            counts, wider = counts * (known > 0), now + known.clamp(min=1e-300).log2() / 2
        mean = float((wider.double() * counts).sum() / counts.sum()) if float(counts.sum()) else 0.0
        found = times(measured, 4**-mean)
        sizes = self._file_steps().tolist()
        learned = {tensor.name: size**-2 for tensor, size in zip(self.trained, sizes, strict=True)}
        transforms = self._reference.sensitivity.transforms
        found = codable(found, {other.name: other.tensor for other in current_tensors(self._model).others})
        return replace(found, curvature={**found.curvature, **learned}, rows={}, transforms=transforms)

    def _rescaled(self) -> tuple[Sensitivity, Tensor]:
        """Return the latest sensitivity, for statistics as large as they are now, and the growth of the steps since.

        Nothing holds the size of a weight before batch norm: its numbers, its step, and the statistics behind it may
        all grow a thousandfold and be the same network.

        Returns:
            The sensitivity; octaves by which the step of each trained tensor grew beside its numbers, (tensors,).
        """
        then, now = self._reference, self._referred(self._reference.sensitivity)
        trained = {tensor.name for tensor in self.trained}
        ratio = {name: size / then.usual.get(name, size) for name, size in now.usual.items() if name not in trained}
        curvature = {name: size * ratio.get(name, 1.0) for name, size in then.sensitivity.curvature.items()}
        grown = now.log_steps - then.log_steps - (now.log_sizes - then.log_sizes)
        return replace(then.sensitivity, curvature=curvature), grown

    def _referred(self, sensitivity: Sensitivity) -> Reference:
        """Return a sensitivity with the network that it is of: the network as it is now."""
        usual = default_sensitivity(current_tensors(self._model)).curvature
        return Reference(sensitivity, usual, self.log_steps.detach().clone(), self._rounding.log_sizes())

    @property
    def has_untrained(self) -> bool:
        """Whether the file rounds numbers that are not trained: batch norm's running statistics, frozen parameters."""
        trained = {tensor.name for tensor in self.trained}
        others = current_tensors(self._model).others
        pairs = zip(others, types_of_others(others, None), strict=True)
        return any(number == QUANTIZED and other.name not in trained for other, number in pairs)

    def remeasure(self, loader: Loader, *, num_gradients: int = 300, loss: Drawn | None = None, seed: int = 0) -> None:
        """Measure again how much the numbers that are not trained matter, as `save` will at the end.

        Their steps, and so their bytes, change with the network: unless the run knows them before its end, its file
        comes out too large, and rounding coarser then costs more than training for fewer bytes does.

        Args:
            loader: batches of inputs from the training data.
            num_gradients: see `tailcut.measure_sensitivity`, as for the following two.
            loss: of a network of several outputs, none of which has logits in its name.
            seed: of the draws.
        """
        if not self.has_untrained:
            return
        network = self._rounded_copy()
        measured = measure_sensitivity(network, loader, num_gradients=num_gradients, loss=loss, seed=seed)
        self._reference = self._referred(replace(self.sensitivity(measured), blocks=()))

    def save(
        self,
        path: str | Path,
        loader: Loader | None = None,
        *,
        num_gradients: int = 300,
        loss: Drawn | None = None,
        seed: int = 0,
        metadata: Mapping[str, Any] | None = None,
        registered: bool = True,
    ) -> SaveReport:
        """Write the trained network to a file of at most `target_bytes`. Does not change the model.

        Coefficients at the ends of their tensors that have become 0 are cut.

        Args:
            path: the file.
            loader: batches of inputs from the training data, for the steps of what was not trained, such as running
                statistics; those that it had at the start when None.
            num_gradients: see `tailcut.measure_sensitivity`.
            loss: of a network of several outputs, see `tailcut.measure_sensitivity`.
            seed: of the draws.
            metadata: see `tailcut.save`.
            registered: see `tailcut.save`.

        Raises:
            ArgumentError: no step makes the file so small, or no file can lie at `path`.
        """
        check_output_path(path)
        settings: ContentSettings = {"metadata": metadata, "registered": registered}
        masters, network = in_evaluation(deepcopied(self._model)), self._rounded_copy()
        cut_to(masters, cut_empty_tails(network))
        has_untrained, measured = self.has_untrained, None
        if loader is not None and has_untrained:
            measured = measure_sensitivity(network, loader, num_gradients=num_gradients, loss=loss, seed=seed)
        learned = replace(self.sensitivity(measured), blocks=())
        # Coarser steps for what was not trained come first, then for the trained numbers.
        for eighths in range(STEPS_PER_OCTAVE * MAX_COARSER + 1) if has_untrained else range(1):
            sensitivity = self._with_coarser_others(learned, 2.0 ** (-eighths / STEPS_PER_OCTAVE))
            content, _ = encode_network(network, dtype=QUANTIZED_DTYPE, step=1.0, sensitivity=sensitivity, **settings)
            if len(content) <= self.target.target_bytes:
                return save(network, path, dtype=QUANTIZED_DTYPE, step=1.0, sensitivity=sensitivity, **settings)
        most = self.target.target_bytes
        return save(masters, path, dtype=QUANTIZED_DTYPE, max_bytes=most, sensitivity=learned, **settings)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the progress of the run, for `state_dict`."""
        return {"target": self.target.state_dict(), "reference": self._reference.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the progress of the run, for `load_state_dict`."""
        self.target.load_state_dict(state["target"])
        self._reference = self._reference.restored(state["reference"])

    def _rounded_copy(self) -> nn.Module:
        """Return a copy of the network, with the numbers of its file."""
        with self.rounded():
            self._rounding.round(self._file_steps())
            return in_evaluation(deepcopied(self._model))

    def _keep_codable(self, numbers: Tensor) -> None:
        """Keep the steps coarse enough for the coder."""
        with torch.no_grad():
            largest = [part.abs().max() for part in self._rounding.split(numbers)]
            least = LEAST_STEP * torch.stack(largest).to(self.log_steps)
            self.log_steps.clamp_(min=least.clamp(min=torch.finfo(torch.float32).tiny).log2())

    def _collect_gradients(self, errors: Tensor, is_used: Tensor) -> None:
        """Add the gradients of the steps through the rounding, and of the numbers by the bytes."""
        with torch.no_grad():
            found = self._rounding.gradients()
            # A rounded number is step * round(number / step), whose derivative by log2(step) is, straight through the
            # rounding, its error times ln 2.
            products = math.log(2) * torch.cat(found) * errors
            if self.has_fixed_steps:
                self.log_steps.grad = None  # not even moved by what an optimiser remembers
            else:
                by_step = torch.stack([part.sum() for part in self._rounding.split(products)]).to(self.log_steps)
                self.log_steps.grad = by_step if self.log_steps.grad is None else self.log_steps.grad.add_(by_step)
                # The step of an empty tensor would grow for ever, and so would that of one that was frozen since.
                wanted = [float(tensor.parameter.requires_grad) for tensor in self.trained]
                self.log_steps.grad *= is_used * torch.tensor(wanted, device="cpu").to(is_used)
            if self._numbers is None or not self._costs_have_gradients:
                return
            if self._numbers.grad is None:
                raise ArgumentError(
                    "the block of rounded() ended before the backward of its loss, so nothing is trained for bytes: "
                    "call loss.backward() within it, or look at the cost under torch.no_grad()"
                )
            _check_alive(found, is_used)
            self._rounding.add_gradients(self._numbers.grad)

    def _with_coarser_others(self, sensitivity: Sensitivity, factor: float) -> Sensitivity:
        """Return the sensitivity with that factor on the curvature of what is not trained."""
        scaled = times(sensitivity, factor)
        learned = {tensor.name: sensitivity.curvature[tensor.name] for tensor in self.trained}
        return replace(scaled, curvature={**scaled.curvature, **learned})

    def _packed_bytes(self, step: float, sensitivity: Sensitivity) -> int:
        check_finite(current_tensors(self._model).others, "lower lr=, and go back to an earlier state of the network")
        return len(encode_network(self._model, dtype=QUANTIZED_DTYPE, step=step, sensitivity=sensitivity)[0])


def _check_alive(gradients: Sequence[Tensor], is_used: Tensor) -> None:
    """Raise `ArgumentError` where all that makes up a network rounds to 0 for ever: the zeros stop all gradients."""
    empty = [gradient for gradient, used in zip(gradients, is_used.tolist(), strict=True) if not used]
    num_empty, num = (sum(gradient.numel() for gradient in found) for found in (empty, gradients))
    if num_empty >= DEAD * num and not any(bool(gradient.any()) for gradient in empty):
        raise ArgumentError(
            "the numbers of the network round to 0, and no gradient brings one back: give more target_bytes or "
            "start_bytes, or truncate the network first (tailcut.regularize)"
        )
