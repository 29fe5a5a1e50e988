import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from tailcut.errors import ArgumentError, StructureError
from tailcut.inputs.selection.gate import FrequencyGate, GateActivity, check_temperature
from tailcut.inputs.selection.selection import Selection

FEW = [0, 3, 70, 130]


def a_gate(seed: int = 0, channels: Any = FEW, **options: Any) -> FrequencyGate:
    """A gate whose numbers are all of a size, so that each of them matters."""
    torch.manual_seed(seed)
    gate = FrequencyGate(channels, **options)
    for parameter in gate.parameters():
        nn.init.normal_(parameter)
    nn.init.normal_(gate.norm.running_mean)  # type: ignore[arg-type]
    nn.init.uniform_(gate.norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    return gate


def by_hand(gate: FrequencyGate, x: Tensor) -> np.ndarray:
    """Probability of "open" in evaluation, (batch, C): the paper's figure 4 in NumPy."""
    state = {name: tensor.double().numpy() for name, tensor in gate.state_dict().items()}
    pooled = x.double().numpy().mean(axis=(2, 3))
    mixed = pooled @ state["mix.weight"][:, :, 0, 0].T
    scaled = (mixed - state["norm.running_mean"]) / np.sqrt(state["norm.running_var"] + gate.norm.eps)
    active = np.maximum(scaled * state["norm.weight"] + state["norm.bias"], 0)
    pairs = active[:, :, None] * state["logits.weight"].reshape(-1, 2) + state["logits.bias"].reshape(-1, 2)
    result: np.ndarray = softmax(pairs, axis=2)[..., 1]
    return result


def test_evaluation_is_the_figure_without_noise() -> None:
    gate = a_gate().eval()
    x = torch.randn(6, 4, 3, 5)
    y = gate(x)
    expected = by_hand(gate, x)
    np.testing.assert_allclose(gate.probabilities.detach().numpy(), expected, atol=1e-6)
    assert 0 < (expected > 0.5).sum() < expected.size
    np.testing.assert_array_equal(y.detach().numpy(), x.numpy() * (expected > 0.5)[:, :, None, None])
    state = torch.random.get_rng_state()
    assert torch.equal(gate(x), y)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_each_image_has_its_own_channels() -> None:
    gate = a_gate(3).eval()
    x = torch.randn(8, 4, 2, 2)
    alone = torch.cat([gate(image[None]) for image in x])
    torch.testing.assert_close(gate(x), alone)
    assert len({tuple(row) for row in gate.mask.tolist()}) > 1


def test_training_samples_with_the_probabilities() -> None:
    gate = a_gate(temperature=0.3)
    gate.norm.eval()  # so that the probabilities are those of evaluation
    x = torch.randn(3, 4, 2, 2)
    torch.manual_seed(1)
    total = sum(gate(x).detach().ne(0).all(dim=(2, 3)).double() for _ in range(4000))
    np.testing.assert_allclose(np.asarray(total) / 4000, by_hand(gate, x), atol=4 * 0.5 / math.sqrt(4000))
    assert set(gate.mask.flatten().tolist()) <= {0.0, 1.0}


def test_the_noise_is_that_of_the_gumbel_softmax() -> None:
    gate = a_gate()
    torch.manual_seed(0)
    noise = gate._noise(torch.empty(200_000))
    uniform = torch.rand(2, 200_000, dtype=torch.float64)
    gumbel = -(-uniform.log()).log()
    difference = gumbel[0] - gumbel[1]
    levels = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    torch.testing.assert_close(noise.double().quantile(levels), difference.quantile(levels), atol=0.06, rtol=0)


def test_temperature_shapes_the_gradient_and_not_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, 4, 2, 2)
    noise = torch.randn(5, 4)
    gradients, masks = [], []
    for temperature in (0.5, 2.0):
        gate = a_gate(temperature=temperature)
        monkeypatch.setattr(gate, "_noise", lambda margin: noise)
        gate.norm.eval()
        gate(x)
        margins = torch.logit(gate.probabilities.detach().double())
        soft = torch.sigmoid((margins + noise.double()) / temperature)
        slope = soft * (1 - soft) / temperature  # of the relaxed sample with respect to the logit of "open"
        gate.mask.sum().backward()
        bias = gate.logits.bias
        assert bias is not None
        assert bias.grad is not None
        torch.testing.assert_close(bias.grad[1::2].double(), slope.sum(0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(bias.grad[0::2], -bias.grad[1::2])
        gradients.append(bias.grad)
        masks.append(gate.mask.detach())
    assert torch.equal(masks[0], masks[1])
    assert not torch.allclose(gradients[0], gradients[1], rtol=0.1)


def test_gradients_reach_every_number() -> None:
    gate = a_gate()
    x = torch.randn(6, 4, 2, 2, requires_grad=True)
    (gate(x).square().sum() + gate.penalty(2.0)).backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in gate.parameters())
    assert x.grad is not None


def test_the_penalty_is_the_mean_probability() -> None:
    gate = a_gate().eval()
    x = torch.randn(5, 4, 2, 2)
    gate(x)
    assert gate.penalty(3.0).item() == pytest.approx(3 * by_hand(gate, x).mean(), rel=1e-5)
    gate.zero_grad()
    gate.penalty(1.0).backward()
    assert gate.logits.weight.grad is not None


def test_gates_start_open() -> None:
    torch.manual_seed(0)
    gate = FrequencyGate()
    gate(torch.randn(16, 192, 4, 4))
    assert gate.num_channels == 192
    assert gate.probabilities.mean().item() == pytest.approx(1 / (1 + math.exp(-2)), abs=0.02)


def test_copies_after_a_step_begin_afresh() -> None:
    gate = a_gate()
    gate(torch.randn(4, 4, 2, 2)).sum().backward()
    copied = copy.deepcopy(gate)
    with pytest.raises(StructureError, match="has seen no batch"):
        _ = copied.probabilities
    with pytest.raises(StructureError, match="has seen no batch"):
        _ = copied.mask
    x = torch.randn(3, 4, 2, 2)
    assert torch.equal(copied.eval()(x), gate.eval()(x))
    assert copied.activity.num_images == 3
    assert copy.deepcopy(copied).activity.num_images == 0


def test_half_precision_and_autocast() -> None:
    gate = a_gate().eval()
    x = torch.randn(4, 4, 2, 2)
    assert gate.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
    assert gate.probabilities.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert gate.float()(x).shape == x.shape


def test_exported_it_gives_the_same_and_has_seen_nothing() -> None:
    gate = a_gate().eval()
    x = torch.randn(3, 4, 2, 2)
    program = torch.export.export(gate, (x,)).module()
    assert gate.activity.num_images == 0
    assert torch.equal(program(x), gate(x))


# Activity and static selection.


def test_activity_is_counted_in_evaluation_only() -> None:
    gate = a_gate(1)
    gate(torch.randn(4, 4, 2, 2))
    assert gate.activity == GateActivity((0, 3, 70, 130), 0, (0.0,) * 4, (0.0,) * 4)
    batches = [torch.randn(n, 4, 2, 2) for n in (3, 5)]
    gate.eval()
    expected = np.concatenate([by_hand(gate, x) for x in batches])
    gate(batches[0])
    with torch.inference_mode():
        gate(batches[1])
    activity = gate.activity
    assert activity.num_images == 8
    np.testing.assert_allclose(activity.probability, expected.mean(0), atol=1e-6)
    np.testing.assert_allclose(activity.open_ratio, (expected > 0.5).mean(0), atol=1e-6)
    assert str(activity).startswith("8 images, ")
    gate.reset_activity()
    assert gate.activity.num_images == 0


def test_measuring_leaves_the_mode_and_takes_what_loaders_give() -> None:
    gate = a_gate(1)
    gate.norm.eval()
    x = torch.randn(6, 4, 2, 2)
    first = gate.measure([(x, torch.zeros(6)), [x]])
    assert (first.num_images, gate.training, gate.norm.training) == (12, True, False)
    second = gate.measure([x / 2], transform=lambda images: images * 2)
    np.testing.assert_allclose(second.probability, first.probability, atol=1e-6)
    assert gate.measure(iter([x])).num_images == 6
    with pytest.raises(ArgumentError, match="gives no batch"):
        gate.measure([])


def activity(probability: list[float], channels: list[int]) -> GateActivity:
    return GateActivity(tuple(channels), 10, tuple(probability), tuple(float(value > 0.5) for value in probability))


def test_the_channels_that_are_open_most_often() -> None:
    seen = activity([0.9, 0.1, 0.6, 0.9, 0.2, 0.7], [0, 1, 64, 65, 128, 129])
    assert seen.top(2).indices == (0, 65)
    assert seen.top(3).indices == (0, 65, 129)
    assert seen.top().indices == (0, 64, 65, 129)
    assert seen.top((2, 1, 1)).indices == (0, 1, 65, 129)
    assert seen.top([0, 0, 1]) == Selection.of([129])
    assert activity([0.5] * 6, [0, 1, 64, 65, 128, 129]).top(3).indices == (0, 1, 64)


@pytest.mark.parametrize("count", [2.5, "12", (1, 2), True])
def test_what_is_no_count_is_refused(count: Any) -> None:
    with pytest.raises(ArgumentError, match=r"expected (one count|1 to)"):
        activity([0.5] * 3, [0, 64, 128]).top(count)


def test_24d_is_14_5_5() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(192, generator=generator)
    seen = activity(values.tolist(), list(range(192)))
    chosen = seen.top((14, 5, 5))
    assert [len(part) for part in chosen.components().values()] == [14, 5, 5]
    for number, part in enumerate(chosen.components().values()):
        own = values[64 * number : 64 * number + 64]
        assert set(part) == set(own.topk(len(part)).indices.tolist())
    assert seen.top(24).indices == tuple(sorted(values.topk(24).indices.tolist()))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.data())
def test_the_selection_is_the_top_of_a_sort(values: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    chosen = activity(values, list(range(len(values)))).top(count).indices
    order = np.lexsort((np.arange(len(values)), -np.array(values)))
    assert chosen == tuple(sorted(order[:count].tolist()))


def test_selection_of_a_gate() -> None:
    gate = a_gate(1)
    with pytest.raises(StructureError, match="give a loader"):
        gate.selection(2)
    x = torch.randn(6, 4, 2, 2)
    chosen = gate.selection(2, loader=[x])
    means = by_hand(gate, x).mean(0)
    assert chosen.indices == tuple(sorted(FEW[place] for place in np.argsort(-means)[:2]))
    assert gate.selection(2) == chosen


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, "expected 1 to 2 channels of all components, got 0"),
        (3, "expected 1 to 2 channels of all components, got 3"),
        ((3, 0, 0), "expected 0 to 2 channels of Y, got 3"),
        ((1, 1, 0), "expected 0 to 0 channels of Cb, got 1"),
        ((0, 0, 0), "at least one channel"),
        ((1, 1), "one count, or three"),
        (True, "got True"),
        (None, "no channel is more likely open"),
    ],
)
def test_counts_that_do_not_fit(count: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        activity([0.4, 0.3], [0, 1]).top(count)


def test_bad_arguments() -> None:
    for temperature in (0, -1.0, math.inf, math.nan, True, "1"):
        with pytest.raises(ArgumentError, match="temperature above 0"):
            check_temperature(temperature)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="no published selection of 25"):
        FrequencyGate(25)
    gate = FrequencyGate(FEW)
    with pytest.raises(ArgumentError, match=r"expects \(batch, 4, height, width\), got \(2, 5, 2, 2\)"):
        gate(torch.zeros(2, 5, 2, 2))
    with pytest.raises(ArgumentError, match="at least 2 images"):
        gate(torch.zeros(1, 4, 2, 2))
    gate.norm.eval()
    assert gate(torch.zeros(1, 4, 2, 2)).shape == (1, 4, 2, 2)
    assert "num_channels=4, temperature=1" in repr(gate)


# Training.

INFORMATIVE = (3, 9)


def images(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sixteen channels of noise; the sum of the means of two of them tells the class."""
    x = torch.randn(count, 16, 4, 4, generator=generator)
    offsets = torch.randn(count, 16, 1, 1, generator=generator)
    labels = (offsets[:, INFORMATIVE].sum(dim=(1, 2, 3)) > 0).long()
    return x + offsets, labels


def trained(strength: float, *, steps: int = 250) -> tuple[FrequencyGate, float]:
    """A gate trained with a linear classifier of the channels' means, and its accuracy on new images."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    gate, head = FrequencyGate(list(range(16))), nn.Linear(16, 2)
    optimizer = torch.optim.Adam([*gate.parameters(), *head.parameters()], lr=0.02)
    for _ in range(steps):
        x, labels = images(128, generator)
        loss = cross_entropy(head(gate(x).mean(dim=(2, 3))), labels) + gate.penalty(strength)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    gate.eval()
    x, labels = images(1000, generator)
    with torch.no_grad():
        right = (head(gate(x).mean(dim=(2, 3))).argmax(1) == labels).double().mean()
    return gate, float(right)


def test_strength_drives_the_number_of_open_channels_and_informative_ones_survive() -> None:
    results = {strength: trained(strength) for strength in (0.0, 1.0, 50.0)}
    open_channels = {strength: sum(gate.activity.open_ratio) for strength, (gate, _) in results.items()}
    assert open_channels[0.0] > 8 > 4 > open_channels[1.0] >= 2 > 0.5 > open_channels[50.0]
    gate, accuracy = results[1.0]
    assert gate.selection(2).indices == INFORMATIVE
    assert accuracy > 0.9
    assert results[50.0][1] < 0.6


def test_numbers_of_channels_are_checked_without_an_image() -> None:
    gate = FrequencyGate(24)
    for count in (None, 24, (2, 1, 0)):
        gate.check_num_channels(count)
    for wrong in (0, 25, (17, 0, 0), (1, 1)):
        with pytest.raises(ArgumentError, match="expected"):
            gate.check_num_channels(wrong)
    assert gate.activity.num_images == 0


def test_every_forward_in_evaluation_takes_the_same_steps() -> None:
    """Whoever follows the first forward knows the others."""

    class Steps(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.taken: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.taken.append(str(func))
            return func(*args, **(kwargs or {}))

    gate, runs = a_gate().eval(), []
    for number in range(4):
        if number == 3:
            gate.reset_activity()
        with torch.no_grad(), Steps() as steps:
            gate(torch.randn(2, 4, 2, 2))
        runs.append(steps.taken)
    assert runs[0] == runs[1] == runs[2] == runs[3]
    assert "aten.add.Tensor" in runs[0]
    assert gate.activity.num_images == 2


@pytest.mark.parametrize("loader", [5, 3.5])
def test_what_is_no_loader_is_told(loader: Any) -> None:
    gate = FrequencyGate(24)
    for measure in (gate.measure, lambda loader: gate.selection(loader=loader)):
        with pytest.raises(ArgumentError, match=f"batches of inputs, got {type(loader).__name__}$"):
            measure(loader)


def test_a_compiled_gate_is_compiled_once() -> None:
    gate, programs = a_gate().eval(), []

    def backend(program: Any, inputs: Any) -> Any:
        programs.append(program)
        return program.forward

    compiled = torch.compile(gate, backend=backend, fullgraph=True)
    for _ in range(12):
        compiled(torch.randn(6, 4, 3, 5))
    assert len(programs) == 1
    assert gate.activity.num_images == 72
