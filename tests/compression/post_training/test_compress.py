"""`compress`: real digits, a trained network, a small file."""

import copy
import dataclasses
import importlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance.torch_networks import Conv1D
from tests.own_tensors import scan
from torch import nn
from torch.nn.utils import parametrizations

import tailcut
from tailcut.compression import compress, measure_sensitivity
from tailcut.compression.post_training.compress import CompressReport
from tailcut.data import open_dataset
from tailcut.errors import ArgumentError, MissingExtraError, StructureError
from tailcut.format.container.contents import decode
from tailcut.format.encoder import row_steps
from tailcut.format.quantized import coder

DIGITS = {split: open_dataset("digits", split) for split in ("train", "test")}


def accuracy(model: nn.Module) -> float:
    images, labels = DIGITS["test"].batch(range(len(DIGITS["test"])))
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return DIGITS["train"].batch(range(256))[0]


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    shape = DIGITS["train"].image_shape
    model = nn.Sequential(
        nn.Conv2d(shape[0], 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    inputs, labels = DIGITS["train"].batch(range(len(DIGITS["train"])))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(12):
        for part in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[part]), labels[part]).backward()
            optimizer.step()
    return model.eval()


def test_a_small_file_that_still_works(trained: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    path, before = tmp_path / "small.tailcut", accuracy(trained)
    assert before > 0.93
    state = {name: value.clone() for name, value in trained.state_dict().items()}
    report = compress(trained, path, [images], max_bytes=2500, evaluate=accuracy)
    assert report.file_bytes == path.stat().st_size <= 2500
    assert report.before == before
    assert report.after is not None
    assert report.after > before - 0.02
    assert all(torch.equal(state[name], value) for name, value in trained.state_dict().items())


def test_inputs_of_another_class_of_tensors_give_the_same_file(
    trained: nn.Module, images: torch.Tensor, tmp_path: Path
) -> None:
    for name, given in (("plain", images[:64]), ("scans", scan(images[:64]))):
        compress(trained, tmp_path / name, [given], step=0.3, num_gradients=64)
    assert (tmp_path / "scans").read_bytes() == (tmp_path / "plain").read_bytes()


@pytest.mark.parametrize("num_gradients", [8, 30])
def test_a_compiled_network_is_measured_as_it_is(
    num_gradients: int, trained: nn.Module, images: torch.Tensor, tmp_path: Path
) -> None:
    """Hooks on its layers are no code that a compiler can trace."""
    compiled: Any = torch.compile(copy.deepcopy(trained), backend="eager")
    settings: dict[str, Any] = {"max_bytes": 2500, "num_gradients": num_gradients, "registered": False}
    report = compress(compiled, tmp_path / "a.tailcut", images.split(8), **settings)
    plain = compress(trained, tmp_path / "b.tailcut", images.split(8), **settings)
    assert report.step == pytest.approx(plain.step, rel=0.1)  # its names in the file leave fewer bytes to numbers
    inside = copy.deepcopy(trained)
    inside.get_submodule("0").compile(backend="eager")
    again = compress(inside, tmp_path / "c.tailcut", images.split(8), **settings)
    assert again.step == pytest.approx(plain.step, rel=1e-6)


def test_a_wrapper_is_told_once(
    trained: nn.Module, images: torch.Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compress(nn.DataParallel(trained), tmp_path / "a.tailcut", [images], max_bytes=2500, num_gradients=8)
    assert caplog.text.count("is a wrapper") == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_network_of_torchscript_is_refused_at_once(tmp_path: Path) -> None:
    traced = torch.jit.trace(nn.Linear(3, 2), torch.rand(1, 3))
    with pytest.raises(StructureError, match="a TorchScript network cannot be saved"):
        compress(traced, tmp_path / "a.tailcut", [torch.rand(8, 3)], max_bytes=900)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("with_data", [True, False])
def test_numbers_of_16_bits_never_take_more_bytes_than_they_do_as_they_are(
    dtype: torch.dtype, with_data: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3)).to(dtype).eval()
    exact = tailcut.save(model, tmp_path / "exact.tailcut").file_bytes
    for most in (2 * exact, exact, exact - 200):
        path = tmp_path / "a.tailcut"
        if with_data:
            compress(model, path, [torch.randn(64, 20, dtype=dtype)], max_bytes=most, num_gradients=8)
        else:
            tailcut.save(model, path, max_bytes=most)
        assert path.stat().st_size <= min(exact, most)
        loaded = tailcut.load(path, into=copy.deepcopy(model))
        same = all(torch.equal(x, y) for x, y in zip(loaded.parameters(), model.parameters(), strict=True))
        assert same == (most >= exact)


def test_nothing_is_measured_for_a_file_that_needs_no_rounding(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3))
    ran = 0

    def count(*_: object) -> None:
        nonlocal ran
        ran += 1

    model[0].register_forward_hook(count)
    exact = tailcut.save(model, tmp_path / "exact.tailcut").file_bytes
    assert compress(model, tmp_path / "a.tailcut", [torch.randn(64, 20)], max_bytes=exact).step == 0
    assert not ran


@pytest.mark.parametrize("goal", [{"step": 0.1}, {"max_drop": 0.1, "evaluate": lambda network: 1.0}])
def test_networks_that_need_numba_are_refused_before_they_are_measured(
    goal: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coder, "is_installed", lambda: False)
    monkeypatch.setattr(coder, "MAX_UNCOMPILED", 100)
    monkeypatch.setattr(
        importlib.import_module("tailcut.compression.post_training.compress"), "measure_sensitivity", None
    )
    with pytest.raises(MissingExtraError, match=r"coding 101 quantised numbers needs the package 'numba'"):
        compress(nn.Linear(100, 1), tmp_path / "a.tailcut", [torch.rand(4, 100)], **goal)


def test_inputs_that_no_curvature_can_be_measured_of(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(ArgumentError, match="normalise the inputs"):
        compress(model, tmp_path / "a.tailcut", [1e19 * torch.randn(64, 20)], max_bytes=500, num_gradients=8)


def test_a_metric_that_fails_at_the_end_costs_no_file(trained: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    calls = 0

    def metric(network: nn.Module) -> float:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise ConnectionError("the server of the metric does not answer")
        return accuracy(network)

    path = tmp_path / "small.tailcut"
    with pytest.raises(ConnectionError):
        compress(trained, path, [images], step=0.05, evaluate=metric, num_gradients=20)
    compress(trained, tmp_path / "other.tailcut", [images], step=0.05, evaluate=accuracy, num_gradients=20)
    assert path.read_bytes() == (tmp_path / "other.tailcut").read_bytes()


@pytest.mark.parametrize("max_bytes", [1800, 2500, 4000])
def test_the_bytes_are_used(trained: nn.Module, images: torch.Tensor, max_bytes: int, tmp_path: Path) -> None:
    report = compress(trained, tmp_path / "small.tailcut", [images], max_bytes=max_bytes)
    assert 0.985 * max_bytes < report.file_bytes <= max_bytes


def test_the_file_holds_the_network_that_was_measured(trained: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "small.tailcut"
    report = compress(trained, path, [images], step=0.05, evaluate=accuracy)
    assert accuracy(tailcut.load(path, into=copy.deepcopy(trained))) == report.after


def test_channels_of_all_sizes_lose_less(
    trained: nn.Module, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same network, whose channels between two layers are of other sizes: its steps differ along these channels."""
    stretched = copy.deepcopy(trained)
    scales = torch.exp2(torch.linspace(-3, 3, 16))
    with torch.no_grad():
        for name in ("1.weight", "1.bias"):
            stretched.get_parameter(name).mul_(scales)
        stretched.get_parameter("4.weight").div_(scales[:, None, None])

    def distance(model: nn.Module, name: str) -> float:
        compress(model, tmp_path / name, [images], max_bytes=2500)
        with torch.no_grad():
            found = tailcut.load(tmp_path / name, into=copy.deepcopy(model))(images).log_softmax(1)
            return float(nn.functional.kl_div(found, trained(images).softmax(1), reduction="batchmean"))

    shifted = distance(stretched, "shifted.tailcut")
    contents = decode((tmp_path / "shifted.tailcut").read_bytes())
    assert contents.quantized_stream is not None
    assert contents.quantized_stream.codec_number == 5
    monkeypatch.setattr(row_steps, "_quarters_along", lambda *_: {})
    assert shifted < 0.5 * distance(stretched, "even.tailcut")


def test_at_most_so_much_worse(trained: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    sizes = []
    for drop in (0.002, 0.05):
        report = compress(trained, tmp_path / "a.tailcut", [images], max_drop=drop, evaluate=accuracy)
        assert report.after is not None
        assert report.before is not None
        assert report.after >= report.before - drop
        sizes.append(report.file_bytes)
    assert sizes[1] < sizes[0] < report.dense_bytes / 5


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ((0.9, 0.891), "; 89.10 %, before 90.00 %"),
        ((-0.25, -0.5), "; -0.5, before -0.25"),
        ((91.5, 91), "; 91, before 91.5"),
    ],
)
def test_only_parts_are_told_as_percentages(metrics: tuple[float, float], text: str) -> None:
    assert str(CompressReport("a", 10, 100, 10.0, 25, 25, 5, 0.1, *metrics)).endswith(text)


def test_it_beats_rounding_by_magnitude(trained: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    """At the same size, steps by magnitudes alone spoil more."""
    path, x = tmp_path / "a.tailcut", DIGITS["test"].batch(range(355))[0]
    losses = []
    for way in ("measured", "by magnitude"):
        if way == "measured":
            compress(trained, path, [images], max_bytes=2200)
        else:
            tailcut.save(trained, path, dtype="quantized", max_bytes=2200)
        found = tailcut.load(path, into=copy.deepcopy(trained))
        with torch.no_grad():
            logs = [nn.functional.log_softmax(model(x), 1) for model in (trained, found)]
        losses.append(float((logs[0].exp() * (logs[0] - logs[1])).sum(1).mean()))
    assert losses[0] < 0.7 * losses[1]


class Certain(nn.Module):
    """Its outputs are 1e-12 of what its loss would notice, as those of a network that is certain of its classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1e-12 * self.layers(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("goal", ["max_bytes", "max_drop"])
def test_a_network_whose_gradients_are_near_zero_gets_the_bytes_that_were_asked_for(goal: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Certain(), torch.randn(64, 8)
    with torch.no_grad():
        expected = model(x)

    def likeness(network: nn.Module) -> float:
        with torch.no_grad():
            return 1 - float((network(x) - expected).std() / expected.std())

    path = tmp_path / "a.tailcut"
    if goal == "max_bytes":
        report = compress(model, path, x, max_bytes=700, evaluate=likeness, num_gradients=20)
        assert 650 < report.file_bytes <= 700
    else:
        report = compress(model, path, x, max_drop=0.1, evaluate=likeness, num_gradients=20)
        assert report.file_bytes < 700
    assert report.after is not None
    assert report.after > 0.9


def test_a_truncated_network(tmp_path: Path) -> None:
    model = tailcut.load("zoo:lenet5-776")
    x = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    sensitivity = measure_sensitivity(model, [x], num_gradients=60)
    report = compress(model, tmp_path / "a.tailcut", [x], max_bytes=700, sensitivity=sensitivity)
    again = tailcut.load(tmp_path / "a.tailcut")
    assert 650 < report.file_bytes <= 700
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())


class LastState(nn.Module):
    def __init__(self, kind: type[nn.GRU | nn.LSTM]) -> None:
        super().__init__()
        self.memory, self.head = kind(8, 24, 2, batch_first=True), nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.memory(x)[0][:, -1])
        return y


def normed() -> nn.Module:
    layers = (
        parametrizations.weight_norm(nn.Linear(8, 64)),
        nn.ReLU(),
        parametrizations.weight_norm(nn.Linear(64, 10)),
    )
    return nn.Sequential(*layers, nn.Flatten(1))


FED_BACK: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "gru": (lambda: LastState(nn.GRU), "memory"),
    "lstm": (lambda: LastState(nn.LSTM), "memory"),
    "weight_norm": (normed, "parametrizations"),
}


@pytest.mark.parametrize("name", FED_BACK)
def test_such_weights_too_are_rounded_with_feedback(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, part = FED_BACK[name]
    model, mixing = make().eval(), torch.randn(3, 8)
    loader = [2 * torch.randn(32, 10, 3) @ mixing for _ in range(6)]
    measured = measure_sensitivity(model, loader, num_gradients=200, loss=unit_loss)
    x, errors = 2 * torch.randn(500, 10, 3) @ mixing, []
    others = tuple(block for block in measured.blocks if part not in block.names[0])
    assert len(others) < len(measured.blocks)
    without = dataclasses.replace(measured, blocks=others)
    for sensitivity in (measured, without):
        settings: dict[str, Any] = {"max_bytes": 3500 if part == "memory" else 1200, "sensitivity": sensitivity}
        compress(model, tmp_path / "a", loader, **settings, registered=False)
        again = tailcut.load(tmp_path / "a", into=make().eval())
        with torch.no_grad():
            errors.append(float((again(x) - model(x)).square().mean()))
    assert errors[0] < 0.6 * errors[1]


def unit_loss(outputs: object, generator: torch.Generator) -> torch.Tensor:
    """Loss of outputs of which each error costs the same."""
    assert isinstance(outputs, torch.Tensor)
    drawn = torch.randn(outputs.shape, generator=generator)
    return (outputs - outputs.detach() - drawn).square().sum() / 2


@pytest.mark.parametrize("kind", ["GPT-2's", "transposed"])
def test_weights_with_inputs_first_lose_no_more_than_others(kind: str, tmp_path: Path) -> None:
    """They hold the same numbers turned, so feedback runs across the rows of their tensors."""
    torch.manual_seed(0)
    mixing = torch.randn(8, 64)
    loader = [torch.randn(32, 8) @ mixing for _ in range(8)]  # inputs that make each other's errors good
    first, second = nn.Linear(64, 96, bias=False), nn.Linear(96, 10)
    usual = nn.Sequential(first, nn.GELU(), second).eval()
    if kind == "transposed":
        layer: nn.Module = nn.ConvTranspose2d(64, 24, 2, bias=False)
        turned = nn.Sequential(nn.Unflatten(1, (64, 1, 1)), layer, nn.Flatten(), nn.GELU(), second).eval()
    else:
        layer = Conv1D(96, 64)
        turned = nn.Sequential(layer, nn.GELU(), second).eval()
    layer.get_parameter("weight").data.copy_(first.weight.T.reshape(layer.get_parameter("weight").shape))
    x, errors = torch.randn(500, 8) @ mixing, []
    for name, model in (("usual", usual), ("turned", turned)):
        compress(model, tmp_path / name, loader, max_bytes=3000, registered=False)
        again = tailcut.load(tmp_path / name, into=copy.deepcopy(model))
        with torch.no_grad():
            errors.append(float((again(x) - model(x)).square().mean()))
    assert errors[1] < 1.3 * errors[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give one of max_bytes, max_drop and step"),
        ({"step": 0.1, "max_bytes": 4}, "give one of max_bytes, max_drop and step"),
        ({"max_drop": 0.1}, "max_drop needs evaluate"),
        ({"step": -1}, "step must be a number above 0"),
        ({"max_bytes": 40}, "cannot have 40 bytes"),
    ],
)
def test_mistakes(
    settings: dict[str, Any], message: str, trained: nn.Module, images: torch.Tensor, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match=message):
        compress(trained, tmp_path / "a.tailcut", [images[:16]], **settings, num_gradients=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("max_bytes", "message"), [(40, "cannot have 40 bytes"), ("2 KB", "whole number of bytes")])
def test_a_size_that_cannot_be_had_is_refused_at_once(
    max_bytes: Any, message: str, trained: nn.Module, tmp_path: Path
) -> None:
    def unread() -> Iterator[torch.Tensor]:
        pytest.fail("inputs are read for gradients, which take minutes")
        yield

    with pytest.raises(ArgumentError, match=message):
        compress(trained, tmp_path / "a.tailcut", unread(), max_bytes=max_bytes)


def test_a_loader_is_not_read_to_its_end(tmp_path: Path) -> None:
    """A loader may have no end, and a data set more images than memory."""
    images, num_read = torch.rand(500, 1, 28, 28), []

    def endless() -> Iterator[torch.Tensor]:
        while True:
            num_read.append(len(images))
            yield images

    settings: dict[str, Any] = {"step": 0.3, "num_gradients": 8}
    report = tailcut.compress(tailcut.load("zoo:lenet5-776"), tmp_path / "a.tailcut", endless(), **settings)
    assert sum(num_read) == 1000
    assert report.file_bytes < 1000


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_where_gradients_are_switched_off(mode: Callable[[], Any], tmp_path: Path) -> None:
    """As in a function that evaluates."""
    model, images = tailcut.load("zoo:lenet5-776"), torch.rand(16, 1, 28, 28)
    tailcut.compress(model, tmp_path / "on.tailcut", images, step=0.3, num_gradients=8)
    with mode():
        tailcut.compress(model, tmp_path / "off.tailcut", images + 0, step=0.3, num_gradients=8)
    assert (tmp_path / "off.tailcut").read_bytes() == (tmp_path / "on.tailcut").read_bytes()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_weights_that_hooks_computed_with_gradients(tmp_path: Path) -> None:
    """A deepcopy refuses such a network once it has run: its weight is a plain attribute with a gradient function."""

    def plain() -> nn.Sequential:
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 6)), nn.BatchNorm1d(6), nn.Linear(6, 4)).eval()

    model = plain()
    tailcut.regularize(model, warn=False)
    inputs = torch.randn(32, 8)
    path = tmp_path / "a.tailcut"
    usual = model(inputs)
    assert vars(model[0])["weight"].grad_fn is not None
    tailcut.save(model, path, levels=(0.5,), loader=[inputs])

    def metric(network: nn.Module) -> float:
        return float(-(network(inputs) - usual).abs().mean().item())

    report = compress(model, path, inputs, max_drop=0.05, evaluate=metric, num_gradients=8, levels=(0.5,))
    again = tailcut.load(path, into=plain())
    assert report.after == pytest.approx(metric(again))
    assert report.after is not None
    assert report.after > -0.05
    rate_loss = tailcut.RateLoss(model, target_bytes=500, num_steps=1)
    with rate_loss.rounded():
        (model(inputs).square().mean() + rate_loss()).backward()
    assert rate_loss.save(path, inputs, num_gradients=8).file_bytes <= 500


def test_weights_that_no_coarse_step_leaves_finite(tmp_path: Path) -> None:
    """Weight normalisation divides by the norm of what is rounded: where all of it is rounded away, 0 by 0."""

    def plain() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, 4))

    model, inputs = plain(), torch.randn(64, 8)
    usual = model(inputs).detach()

    def metric(network: nn.Module) -> float:
        with torch.no_grad():
            return -float((network(inputs) - usual).abs().max())

    report = compress(model, tmp_path / "a.tailcut", inputs, max_drop=0.05, evaluate=metric, num_gradients=8)
    assert report.after is not None
    assert report.after >= -0.05
    assert report.after == metric(tailcut.load(tmp_path / "a.tailcut", into=plain()))
    with pytest.raises(ArgumentError, match="no finite numbers at 0: ask for more bytes, or a finer step"):
        compress(model, tmp_path / "b.tailcut", inputs, step=100.0, num_gradients=8)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_layers_without_numbers_stay_empty(tmp_path: Path) -> None:
    class Empty(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 4)
            self.rows, self.columns = nn.Linear(4, 0), nn.Linear(0, 4)

    compress(Empty(), tmp_path / "a.tailcut", torch.randn(16, 4), step=0.01, num_gradients=8)
    again = tailcut.load(tmp_path / "a.tailcut", into=Empty())
    assert [tuple(again.get_parameter(f"{name}.weight").shape) for name in ("rows", "columns")] == [(0, 4), (4, 0)]


class Remembering(nn.Module):
    """Counts its calls, and makes a buffer at the first."""

    calls: torch.Tensor
    cache: torch.Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(10, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("cache", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.cache is None:
            self.cache = torch.arange(3.0)
        found: torch.Tensor = self.layer(x) + self.cache
        return found


def test_what_the_network_remembers_of_the_runs_is_forgotten(tmp_path: Path) -> None:
    model = Remembering().eval()
    metric = lambda network: network(torch.ones(1, 10)).sum().item()  # noqa: E731
    compress(model, tmp_path / "a.tailcut", torch.randn(64, 10), step=0.01, num_gradients=50, evaluate=metric)
    assert (model.calls.item(), model.cache) == (0, None)
    assert tailcut.load(tmp_path / "a.tailcut", into=Remembering()).state_dict()["calls"] == 0


class TiedByMemory(nn.Module):
    """An autoencoder whose two layers are two parameters in one memory."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(16, 12), nn.Linear(12, 16)
        self.decoder.weight = nn.Parameter(self.encoder.weight.t())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.decoder(torch.relu(self.encoder(x)))
        return found


def test_parameters_in_one_memory_are_not_rounded_apart(tmp_path: Path) -> None:
    model, path = TiedByMemory().eval(), tmp_path / "a.tailcut"
    for make in (
        lambda: compress(model, path, torch.randn(64, 16), step=0.1),
        lambda: tailcut.save(model, path, step=0.1),
        lambda: tailcut.RateLoss(model, target_bytes=400, num_steps=10),
    ):
        with pytest.raises(ArgumentError, match=r"decoder.weight and encoder.weight are two .* in the same memory"):
            make()
    assert not path.exists()
    tailcut.save(model, path)
    loaded = tailcut.load(path, into=TiedByMemory())
    assert torch.equal(loaded.encoder.weight, model.encoder.weight)
    assert torch.equal(loaded.decoder.weight, model.decoder.weight)


def test_a_buffer_that_repeats_one_number(tmp_path: Path) -> None:
    def made() -> nn.Module:
        model = nn.Sequential(nn.Linear(10, 3), nn.Sigmoid()).eval()
        model[1].register_buffer("mean", torch.tensor([0.5]).expand(3))
        return model

    model, path = made(), tmp_path / "a.tailcut"
    compress(model, path, torch.randn(64, 10), step=0.01, num_gradients=50)
    tailcut.save(model, tmp_path / "exact.tailcut")
    for name in ("a", "exact"):
        loaded = tailcut.load(tmp_path / f"{name}.tailcut", into=made())
        assert loaded.state_dict()["1.mean"].tolist() == [0.5, 0.5, 0.5]


def test_a_drop_of_nothing_takes_networks_that_are_as_good(tmp_path: Path) -> None:
    model = nn.Linear(6, 3)
    report = compress(model, tmp_path / "a.tailcut", [torch.randn(32, 6)], max_drop=0.0, evaluate=lambda network: 0.5)
    assert report.after == 0.5


def test_padding_by_name_is_padding_by_number(tmp_path: Path) -> None:
    """The same function, so the same numbers: nothing is measured less, or fitted less."""
    found = []
    for padding in (1, "same"):
        torch.manual_seed(0)
        layers = [nn.Conv2d(2, 12, 3, padding=padding), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=padding), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * 64, 4))
        images = [torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(1))]
        compress(model, tmp_path / "a.tailcut", images, max_bytes=2500, num_gradients=8)
        loaded = tailcut.load(tmp_path / "a.tailcut", into=model)
        found.append([value.clone() for value in loaded.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_one_unlucky_measurement_does_not_rule_out_all_that_is_coarser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))
    inputs = [torch.randn(64, 20)]
    sensitivity = tailcut.measure_sensitivity(model, inputs, num_gradients=8)
    with torch.no_grad():
        wanted = model(inputs[0])

    def num_bytes(unlucky: int) -> int:
        calls = itertools.count()

        def closeness(network: nn.Module) -> float:
            with torch.no_grad():
                error = float((network(inputs[0]) - wanted).square().mean())
            return -1.0 if next(calls) == unlucky else -error

        report = compress(
            model, tmp_path / "a.tailcut", inputs, max_drop=0.002, evaluate=closeness, sensitivity=sensitivity
        )
        return report.file_bytes

    found = [num_bytes(unlucky) for unlucky in range(3, 9)]
    monkeypatch.setattr(importlib.import_module("tailcut.compression.post_training.compress"), "COARSER", ())
    alone = [num_bytes(unlucky) for unlucky in range(3, 9)]
    assert all(one <= other for one, other in zip(found, alone, strict=True))
    assert any(one < 0.95 * other for one, other in zip(found, alone, strict=True)), (found, alone)


class Texts(nn.Module):
    """Words through an LSTM in both directions, of whose last state the way back has seen one word: no gradient tells
    what its recurrent weight matters. Nor what a table matters that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.unread = nn.Embedding(100, 8), nn.Embedding(20, 16)
        self.lstm = nn.LSTM(8, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 3)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.lstm(self.words(words))[0][:, -1])
        return logits


WORDS = [torch.randint(0, 100, (8, 5), generator=torch.Generator().manual_seed(seed)) for seed in range(12)]


def test_matrices_without_any_gradient(tmp_path: Path) -> None:
    model, path = Texts().eval(), tmp_path / "a.tailcut"

    def agreement(network: nn.Module) -> float:
        with torch.no_grad():
            return float((network(WORDS[0]).argmax(1) == model(WORDS[0]).argmax(1)).float().mean())

    sensitivity = tailcut.measure_sensitivity(model, WORDS, num_gradients=24)
    assert {"words.weight", "head.weight", "lstm.weight_hh_l0"} <= set(sensitivity.rows)
    assert not {"unread.weight", "lstm.weight_hh_l0_reverse"} & set(sensitivity.rows)
    compress(model, path, WORDS, step=0.005, sensitivity=sensitivity)
    report = compress(model, path, WORDS, max_bytes=900, sensitivity=sensitivity)
    assert report.file_bytes > 860
    report = compress(model, path, WORDS, max_drop=0.3, evaluate=agreement, sensitivity=sensitivity)
    assert report.after is not None
    assert report.after >= 0.7


@pytest.mark.parametrize("step", [10.0, 1.0, 0.1, 0.03])
def test_steps_of_rows_never_take_more_bytes_than_they_save(step: float, tmp_path: Path) -> None:
    model = Texts().eval()
    sensitivity = tailcut.measure_sensitivity(model, WORDS, num_gradients=96)
    sizes = [
        tailcut.save(model, tmp_path / "a", dtype="quantized", step=step, sensitivity=known).file_bytes
        for known in (sensitivity, dataclasses.replace(sensitivity, rows={}))
    ]
    assert sizes[0] <= 1.02 * sizes[1] + 2


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(8, 16), nn.Linear(16, 5)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.encoder(self.first(x), src_key_padding_mask=mask).mean(1))
        return logits


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # of `Encoder` itself
def test_an_encoder_with_masks_which_makes_nested_tensors(tmp_path: Path) -> None:
    model = Encoder().eval()
    generator = torch.Generator().manual_seed(1)
    inputs = [
        (torch.randn(8, 6, 8, generator=generator), torch.arange(6) >= torch.randint(2, 7, (8, 1), generator=generator))
        for _ in range(4)
    ]
    batches = [(pair, None) for pair in inputs]
    compress(model, tmp_path / "a.tailcut", batches, step=0.003, num_gradients=16)
    small = tailcut.load(tmp_path / "a.tailcut", into=Encoder()).eval()
    with torch.no_grad():
        torch.testing.assert_close(small(*inputs[0]), model(*inputs[0]), rtol=0, atol=0.1)


def test_gradients_of_an_embedding_may_be_sparse(tmp_path: Path) -> None:
    found = []
    for is_sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(100, 8, sparse=is_sparse), nn.Flatten(), nn.Linear(40, 3))
        compress(model, tmp_path / "a.tailcut", WORDS, step=0.005, num_gradients=24)
        found.append((tmp_path / "a.tailcut").read_bytes())
    assert found[0] == found[1]
