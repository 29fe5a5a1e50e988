"""The Fisher information, against a formula where there is one."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import tailcut
from tailcut.compression import measure_sensitivity
from tailcut.compression.sensitivity import fisher
from tailcut.compression.sensitivity.fisher import _RowSquares
from tailcut.errors import ArgumentError
from tailcut.format.encoder.sensitivity import Sensitivity


def test_of_a_linear_classifier() -> None:
    """Of W in softmax(W x): the mean over inputs of (diag(p) - p p^T) times x x^T."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    x = torch.randn(64, 6)
    found = measure_sensitivity(model, [x], num_gradients=4000)
    with torch.no_grad():
        p = functional.softmax(model(x), 1)
    by_output = p * (1 - p)
    assert found.curvature["1.weight"] == pytest.approx(
        float((by_output[:, :, None] * x[:, None] ** 2).mean()), rel=0.05
    )
    assert found.curvature["1.bias"] == pytest.approx(float(by_output.mean()), rel=0.05)


def test_tokens_of_a_language_model_each_have_their_class() -> None:
    """Of the shift: the mean over inputs of the tokens' p (1 - p), summed; there are fewer tokens than classes."""
    torch.manual_seed(0)
    model, ids = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9)), torch.randint(0, 9, (64, 5))
    found = measure_sensitivity(model, [ids], num_gradients=4000)
    with torch.no_grad():
        p = functional.softmax(model(ids), -1)
    assert found.curvature["1.bias"] == pytest.approx(float((p * (1 - p)).sum(1).mean()), rel=0.05)


def normed() -> nn.Module:
    """Return a network whose gains and shifts are constant, so that one coefficient of each holds them."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    norm.get_buffer("running_mean").normal_()
    norm.get_buffer("running_var").uniform_(0.5, 2)
    nn.init.constant_(norm.weight, 1.3)
    nn.init.constant_(norm.bias, 0.2)
    return nn.Sequential(nn.Conv2d(1, 6, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 5)).eval()


@pytest.mark.parametrize("num_kept", [1, 4, 6])
def test_statistics_matter_as_much_where_gains_are_coefficients(num_kept: int) -> None:
    x = torch.randn(32, 1, 6, 6).split(8)
    expected = measure_sensitivity(normed(), x, num_gradients=8)
    truncated = normed()
    if num_kept < 6:
        tailcut.weights.truncate_norms(truncated, num_kept)
    else:
        tailcut.regularize(truncated, keep_ratio=1.0, include=["1.weight"], warn=False)
    found = measure_sensitivity(truncated, x, num_gradients=8)
    assert not truncated[1]._forward_pre_hooks  # type: ignore[index]
    for name in ("1.running_mean", "1.running_var"):
        assert found.curvature[name] == pytest.approx(expected.curvature[name], rel=1e-4)
        assert expected.curvature[name] > 0
    assert found.log_curvature["1.running_var"] == pytest.approx(expected.log_curvature["1.running_var"], rel=1e-4)


def test_of_batch_norm_statistics_by_finite_differences() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(3)
    norm.get_buffer("running_mean").copy_(torch.tensor([0.5, -1.0, 0.2]))
    norm.get_buffer("running_var").copy_(torch.tensor([2.0, 0.3, 1.0]))
    nn.init.uniform_(norm.weight, 0.5, 2)
    model, x = nn.Sequential(norm, nn.Linear(3, 4)).eval(), torch.randn(40, 3)

    def loss(outputs: object, _: torch.Generator) -> torch.Tensor:
        assert isinstance(outputs, torch.Tensor)
        return outputs.square().sum()

    found = measure_sensitivity(model, x.split(1), num_gradients=40, loss=loss)

    def gradient(name: str, step: float, log: bool = False) -> list[torch.Tensor]:
        rows = []
        for channel in range(3):
            buffer, results = norm.get_buffer(name), []
            before = buffer.clone()
            for sign in (1, -1):
                buffer[channel] = before[channel] * 2 ** (sign * step) if log else before[channel] + sign * step
                with torch.no_grad():
                    results.append(model(x).double().square().sum(1))
                buffer.copy_(before)
            rows.append((results[0] - results[1]) / (2 * step))
        return rows

    for name in ("running_mean", "running_var"):
        wanted = torch.stack(gradient(name, 1e-2)).square().mean()
        assert found.curvature[f"0.{name}"] == pytest.approx(float(wanted), rel=0.02)
    wanted = torch.stack(gradient("running_var", 1e-2, log=True)).square().mean()
    assert found.log_curvature["0.running_var"] == pytest.approx(float(wanted), rel=0.02)


def truncated() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    tailcut.regularize(model, num_kept=12)
    return model


def test_the_network_is_left_as_it_was() -> None:
    model = truncated()
    model[1].eval()
    next(model.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    measure_sensitivity(model, [torch.randn(16, 1, 8, 8)], num_gradients=5)
    assert modes == [module.training for module in model.modules()]
    assert wanted == [parameter.requires_grad for parameter in model.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_in_training_mode_too() -> None:
    """The second moments of plain layers' inputs were once taken in the mode that the network came in."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(64, 3))
    x, before = torch.randn(8, 1, 6, 6), copy.deepcopy(model.state_dict())
    found = measure_sensitivity(model.train(), [x], num_gradients=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    wanted = measure_sensitivity(model.eval(), [x], num_gradients=2)
    assert len(found.blocks) == len(wanted.blocks) > 1
    for block, other in zip(found.blocks, wanted.blocks, strict=True):
        assert torch.equal(block.upper, other.upper), block.names


def test_one_block_of_all_coefficients(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = truncated(), [torch.randn(16, 1, 8, 8)]
    found = measure_sensitivity(model, inputs, num_gradients=5)
    assert [(block.names, len(block.upper)) for block in found.blocks] == [(("0.weight", "4.weight"), 24)]
    monkeypatch.setattr(fisher, "MAX_BLOCK", 20)
    found = measure_sensitivity(model, inputs, num_gradients=5)
    assert [block.names for block in found.blocks] == [("0.weight",), ("4.weight",)]


def test_the_same_seed_the_same_figures() -> None:
    model, inputs = truncated(), [torch.randn(16, 1, 8, 8)]
    first, again, other = (measure_sensitivity(model, inputs, num_gradients=4, seed=seed) for seed in (1, 1, 2))
    assert first.curvature == again.curvature != other.curvature


def test_pixels_each_have_their_class_and_single_channels_noise() -> None:
    for channels in (1, 2):
        model = nn.Conv2d(3, channels, 1)
        found = measure_sensitivity(model, [torch.randn(4, 3, 6, 6)], num_gradients=50)
        bias = found.curvature["bias"]
        assert (20 if channels == 1 else 2) < bias < 60  # 36 pixels of variance 1, or of p (1 - p) at most 1/4


def test_mistakes() -> None:
    class Two(nn.Linear):
        def forward(self, input: torch.Tensor) -> Any:
            return {"scores": super().forward(input), "input": input}

    with pytest.raises(ArgumentError, match="the network gives a dict of several tensors, none of them named logits"):
        measure_sensitivity(Two(2, 2), [torch.zeros(1, 2)], num_gradients=1)
    for loss, message in (
        (lambda outputs, _: outputs["scores"], r"loss= must give one number.* got a tensor of shape \(1, 2\)"),
        (lambda outputs, _: outputs["scores"].sum().item(), "loss= must give one number.* got float"),
        (lambda outputs, _: outputs["scores"].detach().sum(), "the loss has no gradient: are the network's outputs"),
        (lambda outputs, _: outputs["scores"].sum() * torch.nan, "the loss is nan: nothing can be measured by it"),
        (lambda outputs, _: (0 * outputs["scores"]).sum().sqrt(), "gradient of the loss by weight is not finite"),
    ):
        with pytest.raises(ArgumentError, match=message):
            measure_sensitivity(Two(2, 2), [torch.zeros(1, 2)], num_gradients=1, loss=loss)
    with pytest.raises(ArgumentError, match="the loader gave no batch"):
        measure_sensitivity(nn.Linear(2, 2), [], num_gradients=1)
    with pytest.raises(ArgumentError, match="measure_sensitivity"):
        measure_sensitivity({"weight": 1}, [torch.zeros(1, 2)])  # type: ignore[arg-type]


class Corners(nn.Module):
    """Three coordinates in pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3))

    def forward(self, x: Tensor) -> Tensor:
        coordinates: Tensor = 100 + 300 * self.layers(x)
        return coordinates


def test_numbers_are_no_logits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A regression's answers stay closer where its numbers are taken for what they are; else there is a warning."""
    model, inputs = Corners().eval(), torch.randn(256, 20)
    errors = []
    for loss in (None, "squared_error"):
        caplog.clear()
        path = tmp_path / "a.tailcut"
        tailcut.compress(model, path, inputs.split(64), max_bytes=1200, num_gradients=40, loss=loss, registered=False)
        assert ('if they are numbers, as coordinates are, give loss="squared_error"' in caplog.text) is (loss is None)
        with torch.no_grad():
            errors.append((tailcut.load(path, into=Corners())(inputs) - model(inputs)).square().mean().sqrt())
    assert errors[1] < 0.7 * errors[0]


def test_the_squared_error_is_that_of_a_normal_distribution() -> None:
    """By hand: the curvature of W in W x, mean over its numbers, is the mean square of x."""
    model, inputs = nn.Linear(20, 3, bias=False), torch.randn(64, 20)
    found = measure_sensitivity(model, inputs, num_gradients=400, loss="squared_error")
    assert found.curvature["weight"] == pytest.approx(inputs.square().mean().item(), rel=0.1)
    with pytest.raises(ArgumentError, match=r"loss must be a function of .*, got 'mse'"):
        measure_sensitivity(model, inputs, loss="mse")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="loss= is for measuring the sensitivity"):
        tailcut.compress(model, "a.tailcut", inputs, max_bytes=500, loss="squared_error", sensitivity=found)


def test_a_name_that_forward_does_not_know_is_said() -> None:
    class Named(nn.Linear):
        def forward(self, pixels: Tensor) -> Tensor:
            return super().forward(pixels)

    batch = {"pixels": torch.zeros(2, 2), "labels": torch.zeros(2)}
    with pytest.raises(ArgumentError, match="Leave 'labels' out of the loader's dicts"):
        measure_sensitivity(Named(2, 2), batch, num_gradients=1)


class Words(nn.Module):
    """The class of a text, by the mean of what its words stand for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(500, 16), nn.Linear(16, 4)

    def forward(self, words: Tensor) -> Tensor:
        logits: Tensor = self.head(self.table(words).mean(1))
        return logits


def texts(number: int, seed: int) -> Tensor:
    """Words that are the rarer the later they stand in the table, as by Zipf's law."""
    parts = 1 / (torch.arange(500) + 3.0)
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(parts.expand(number, -1), 12, replacement=True, generator=generator)


def test_rows_that_are_read_seldom_matter_less(tmp_path: Path) -> None:
    model = Words().eval()
    sensitivity = measure_sensitivity(model, texts(800, 1).split(8), num_gradients=100)
    assert set(sensitivity.rows) == {"table.weight", "head.weight"}
    rows = sensitivity.rows["table.weight"]
    assert rows[:20].mean() > 5 * rows[250:].mean()
    assert bool((rows > 0).all())  # also of words that none of the texts has

    def error(known: Sensitivity) -> float:
        tailcut.save(model, tmp_path / "a.tailcut", max_bytes=3000, sensitivity=known)
        small, others = tailcut.load(tmp_path / "a.tailcut", into=Words()).eval(), texts(500, 2)
        with torch.no_grad():
            return float((small(others) - model(others)).square().mean())

    assert error(sensitivity) < 0.7 * error(replace(sensitivity, rows={}))


def test_a_row_counts_as_if_one_batch_more_had_read_it() -> None:
    """The squares of gradients of a few batches say little of a row that they read once, or never."""
    squares = _RowSquares(3)
    squares.add(torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    squares.add(torch.tensor([[2.0, 2.0], [0.0, 2.0], [0.0, 0.0]]))
    assert squares.smoothed().tolist() == [2 + 4 + 8 / 3, 2 + 8 / 3, 8 / 3]


class Counting(nn.Module):
    """Its forward sets attributes of it, as many networks keep their last attention or the size of their input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 12, 3), nn.Linear(12, 4)
        self.num_calls, self.size, self.store = 0, torch.Size(), dict[str, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.num_calls, self.size = self.num_calls + 1, x.shape[-2:]
        self.store["features"] = features = torch.relu(self.conv(x))
        result: Tensor = self.head(features.mean((2, 3)))
        return result


def test_a_truncated_network_may_set_attributes_of_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, batches = Counting(), [torch.randn(4, 3, 10, 10) for _ in range(4)]
    tailcut.regularize(model, keep_ratio=0.3, warn=False)
    model(batches[0]).sum().backward()  # what it keeps has a gradient
    assert tailcut.compress(model, tmp_path / "a.tailcut", batches, max_bytes=400).file_bytes <= 400
