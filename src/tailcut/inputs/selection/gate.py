"""Gate that learns which frequency channels a network needs (section 3.2 of the paper)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from tailcut.arguments import is_integer
from tailcut.errors import ArgumentError, StructureError
from tailcut.inputs.selection.patterns import NUM_FREQUENCIES
from tailcut.inputs.selection.selection import Selection
from tailcut.model_inputs import check_loader, without_targets
from tailcut.printing import Report
from tailcut.running import evaluating

COMPONENT_NAMES = ("Y", "Cb", "Cr")
# At the start a channel is open with probability 1 / (1 + exp(-2)) = 0.88.
OPEN_AT_START = 2.0
LOGIT_SPREAD_AT_START = 0.1


@dataclass(frozen=True)
class GateActivity(Report):
    """Frequency with which a gate opened each channel, over a number of images.

    Attributes:
        channels: index of each channel, component * 64 + 8 v + u.
        num_images: how many images were seen.
        probability: mean probability that the channel is open, one per channel.
        open_ratio: part of the images for which it was open without noise, one per channel.
    """

    channels: tuple[int, ...]
    num_images: int
    probability: tuple[float, ...]
    open_ratio: tuple[float, ...]

    def __str__(self) -> str:
        """Return one line per component."""
        lines = [f"{self.num_images:,} images, {sum(self.open_ratio):.1f} of {len(self.channels)} channels open"]
        for number, name in enumerate(COMPONENT_NAMES):
            own = [
                ratio
                for index, ratio in zip(self.channels, self.open_ratio, strict=True)
                if _component(index) == number
            ]
            lines.append(f"{name:2}  {sum(own):5.1f} of {len(own)}")
        return "\n".join(lines)

    def top(self, num_channels: int | Sequence[int] | None = None) -> Selection:
        """Return the channels that are open most often, by mean probability; ties go to the lower index.

        Args:
            num_channels: how many; or three counts for Y, Cb and Cr (the paper's 24D is (14, 5, 5)); or None for
                those that are more likely open than closed.

        Raises:
            ArgumentError: there are not so many channels, or with None none is likely open.
        """
        order = sorted(range(len(self.channels)), key=lambda place: (-self.probability[place], self.channels[place]))
        ranked = [self.channels[place] for place in order]
        if num_channels is None:
            likely = sum(value > 0.5 for value in self.probability)
            if likely == 0:
                raise ArgumentError("no channel is more likely open than closed: say how many to take")
            return Selection.of(sorted(ranked[:likely]))
        if isinstance(num_channels, int):
            return Selection.of(sorted(_first(ranked, num_channels, "of all components")))
        counts = tuple(num_channels) if isinstance(num_channels, Sequence) else ()
        if len(counts) != len(COMPONENT_NAMES):
            raise ArgumentError(f"expected one count, or three for Y, Cb and Cr, got {num_channels!r}")
        chosen: list[int] = []
        for number, count in enumerate(counts):
            own = [index for index in ranked if _component(index) == number]
            chosen += _first(own, count, f"of {COMPONENT_NAMES[number]}", least=0)
        if not chosen:
            raise ArgumentError("expected at least one channel, got (0, 0, 0)")
        return Selection.of(sorted(chosen))


class FrequencyGate(nn.Module):
    """Opens or closes each frequency channel of an image: learned selection (figure 4 of the paper).

    Global average pool, 1 x 1 convolution C -> C, batch norm, ReLU, grouped 1 x 1 convolution to two numbers per
    channel (closed, open), and a hard choice between them: the channel is multiplied by 0 or 1. In training the
    choice is a sample of the Gumbel-softmax (straight-through: the forward uses 0 or 1, the backward the
    softmax at `temperature`). The loss of the network gets `gate.penalty(strength)` added.

    - *Dynamic* use: keep the gate; each image has its own channels.
    - *Static* use: `gate.selection(24, loader=...)` gives the channels that are open most often; train a network on
      these alone.

    Deviations. The paper samples at inference too, from the two numbers divided by their sum (which may be
    negative); here they are logits of a softmax, and evaluation has no noise: a channel is open if its
    probability is above one half. The published code ignores the temperature and draws noise at evaluation; here
    the temperature counts and noise is drawn in training only. The penalty is the mean probability instead of the
    mean of the sampled gates: the same number in the mean over the noise, without its variance. The sum over
    channels of the paper's regulariser is a mean, as in the published code, so that `strength` does not depend on
    the number of channels. Gates start open (probability 0.88).

    Input: (batch, C, height, width), normalised channels. Output: the same shape, closed channels zero.

    Args:
        channels: how many channels, a list of their indices, or a `Selection`; all 192 by default.
        temperature: of the softmax in training, above 0. The probability of a sample does not depend on it; low
            ones make gradients large near an even choice and small elsewhere.

    Attributes:
        channels: which channels the gate reads, a `Selection`.
        num_channels: how many.
        temperature: may be changed at any time, to anneal it.

    Raises:
        ArgumentError: the temperature is not positive, or the channels are no selection.
    """

    def __init__(self, channels: int | Sequence[int] | Selection = 192, *, temperature: float = 1.0) -> None:
        super().__init__()
        self.channels = Selection.of(channels)
        self.num_channels = self.channels.num_channels
        self.temperature = check_temperature(temperature)
        count = self.num_channels
        self.mix = nn.Conv2d(count, count, 1, bias=False)
        self.norm = nn.BatchNorm2d(count)
        self.relu = nn.ReLU()
        self.logits = nn.Conv2d(count, 2 * count, 1, groups=count)
        self.reset_parameters()
        self._last = _LastBatch()
        self._seen = _Seen(count)

    def reset_parameters(self) -> None:
        """Start anew: all channels likely open (changes the module)."""
        nn.init.kaiming_normal_(self.mix.weight, nonlinearity="relu")
        self.norm.reset_parameters()
        nn.init.normal_(self.logits.weight, std=LOGIT_SPREAD_AT_START)
        if self.logits.bias is not None:
            nn.init.zeros_(self.logits.bias)
            with torch.no_grad():
                self.logits.bias[1::2] = OPEN_AT_START

    def forward(self, x: Tensor) -> Tensor:
        """(batch, C, height, width) to the same shape; keeps `probabilities` of this batch.

        Raises:
            ArgumentError: the number of channels is another one, or a batch of one image in training, of which
                batch norm cannot take statistics.
        """
        if x.ndim != 4 or x.shape[1] != self.num_channels:
            raise ArgumentError(f"the gate expects (batch, {self.num_channels}, height, width), got {tuple(x.shape)}")
        if self.norm.training and x.shape[0] == 1:
            raise ArgumentError("the gate trains on at least 2 images a batch; or freeze it with gate.norm.eval()")
        pooled = x.mean(dim=(2, 3), keepdim=True)  # (batch, C, 1, 1)
        pairs = self.logits(self.relu(self.norm(self.mix(pooled)))).float().reshape(-1, self.num_channels, 2)
        margin = pairs[..., 1] - pairs[..., 0]  # (batch, C): the logit of "open"
        probabilities = margin.sigmoid()
        is_open = margin > 0
        if self.training:
            # The difference of two Gumbel variables is logistic, and the softmax of two a sigmoid.
            noisy = margin + self._noise(margin)
            soft = (noisy / self.temperature).sigmoid()
            hard = (noisy > 0).to(soft.dtype)
            mask = hard + (soft - soft.detach())
        else:
            mask = is_open.to(margin.dtype)
            if not torch.compiler.is_exporting():
                self._seen.add(probabilities.detach(), is_open)
        self._last.probabilities, self._last.mask = probabilities, mask
        chosen: Tensor = x * mask.to(x.dtype)[:, :, None, None]
        return chosen

    @property
    def probabilities(self) -> Tensor:
        """Probability of each channel of the last batch to be open, (batch, C) in 0..1. Differentiable."""
        if self._last.probabilities is None:
            raise StructureError("the gate has seen no batch yet: run a forward first")
        return self._last.probabilities

    @property
    def mask(self) -> Tensor:
        """Mask of the last batch, (batch, C), each 0 or 1."""
        if self._last.mask is None:
            raise StructureError("the gate has seen no batch yet: run a forward first")
        return self._last.mask

    def penalty(self, strength: float) -> Tensor:
        """Return the loss term of the gate: `strength` (the paper's lambda) times the last batch's mean probability."""
        return strength * self.probabilities.mean()

    @property
    def activity(self) -> GateActivity:
        """Activity of the gate in evaluation mode since its creation, a copy, or `reset_activity`."""
        return self._seen.activity(self.channels.indices)

    def check_num_channels(self, num_channels: int | Sequence[int] | None) -> None:
        """Raise `ArgumentError` unless so many channels can be selected, see `GateActivity.top`; None always may be."""
        if num_channels is not None:
            nothing: tuple[float, ...] = (0.0,) * self.num_channels
            GateActivity(self.channels.indices, 0, nothing, nothing).top(num_channels)

    def reset_activity(self) -> None:
        """Forget the images seen so far (changes the module)."""
        self._seen = _Seen(self.num_channels)

    def measure(self, loader: Iterable[Any], *, transform: Callable[[Tensor], Tensor] | None = None) -> GateActivity:
        """Return the activity over a loader, without the network behind the gate. Changes the module's activity only.

        Args:
            loader: batches of channels (batch, C, height, width), or of images if there is a `transform`; of a
                tuple or list the first item counts.
            transform: makes channels of a batch.

        Raises:
            ArgumentError: the loader is none, gives no batch, or batches of another shape.
        """
        check_loader(loader)
        self.reset_activity()
        device = self.mix.weight.device
        with evaluating(self), torch.no_grad():
            for batch in loader:
                x = without_targets(batch)
                self(x.to(device) if transform is None else transform(x.to(device)))
        if self.activity.num_images == 0:
            raise ArgumentError("the loader gives no batch, so the gate has no activity")
        return self.activity

    def selection(
        self,
        num_channels: int | Sequence[int] | None = None,
        *,
        loader: Iterable[Any] | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> Selection:
        """Return the static selection of a trained gate: the channels that are open most often.

        Args:
            num_channels: see `GateActivity.top`.
            loader: measured first, see `measure`; None takes the activity so far.
            transform: see `measure`.

        Raises:
            ArgumentError: see `GateActivity.top` and `measure`.
            StructureError: no loader, and the gate has seen no image in evaluation mode.
        """
        activity = self.activity if loader is None else self.measure(loader, transform=transform)
        if activity.num_images == 0:
            raise StructureError("the gate has seen no image in evaluation mode: give a loader")
        return activity.top(num_channels)

    def extra_repr(self) -> str:
        """Channels and temperature, for `print(model)`."""
        return f"num_channels={self.num_channels}, temperature={self.temperature:g}"

    def _noise(self, margin: Tensor) -> Tensor:
        """Logistic noise in the shape of `margin`, from the global random state."""
        uniform = torch.rand_like(margin).clamp(torch.finfo(margin.dtype).tiny, 1 - torch.finfo(margin.dtype).eps)
        return uniform.log() - (-uniform).log1p()


class _LastBatch:
    """Tensors of the last forward. They hang on its graph, so copies of the gate begin without."""

    def __init__(self) -> None:
        self.probabilities: Tensor | None = None
        self.mask: Tensor | None = None

    def __getstate__(self) -> dict[str, None]:
        return {"probabilities": None, "mask": None}


class _Seen:
    """Running sums over the images seen in evaluation. No buffers: neither files nor averages keep them.

    They start as zeros, so that the first forward takes the same steps as any other.
    """

    def __init__(self, num_channels: int) -> None:
        # How many there were is a row too: torch's compiler would make a program for each number.
        self._sums = torch.zeros(3, num_channels, device="cpu")

    def add(self, probabilities: Tensor, is_open: Tensor) -> None:
        counted = torch.ones_like(probabilities)
        sums = torch.stack([each.sum(0) for each in (probabilities, is_open.to(probabilities.dtype), counted)])
        self._sums = self._sums.to(sums.device) + sums

    def activity(self, channels: tuple[int, ...]) -> GateActivity:
        num_images = int(self._sums[2, 0])
        probability, open_ratio, _ = (self._sums / max(num_images, 1)).tolist()
        return GateActivity(channels, num_images, tuple(probability), tuple(open_ratio))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(self._sums.shape[1])


def check_temperature(temperature: float) -> float:
    """Return the temperature as a float; raise `ArgumentError` unless it is positive and finite."""
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 < temperature < float("inf"):
        raise ArgumentError(f"expected a temperature above 0, got {temperature!r}")
    return float(temperature)


def _component(index: int) -> int:
    return index // NUM_FREQUENCIES


def _first(ranked: list[int], count: int, where: str, *, least: int = 1) -> list[int]:
    if not is_integer(count) or not least <= count <= len(ranked):
        raise ArgumentError(f"expected {least} to {len(ranked)} channels {where}, got {count!r}")
    return ranked[:count]
