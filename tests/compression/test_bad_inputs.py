"""Inputs and networks that cannot be compressed: one clear error, and no file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tailcut
from tailcut.errors import ArgumentError

FITTING = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def broken() -> nn.Module:
    model = tailcut.load("zoo:lenet5-776")
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("nan")
    return model


def sound() -> nn.Module:
    return tailcut.load("zoo:lenet5-776")


def constant() -> nn.Module:
    """As torchvision's ViT begins: with a last layer of zeros."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.ReLU(), nn.Linear(10, 1, bias=False))
    nn.init.zeros_(model[3].get_parameter("weight"))
    nn.init.constant_(model[1].get_parameter("bias"), -1e3)  # all zeros in front of it too
    return model


def prices() -> nn.Module:
    """Numbers so large that the softmax of classes would be certain of one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 4))
    model[1].get_parameter("weight").data *= 1e5
    return model


def overflowing() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 784), nn.Linear(784, 10))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 1e30)
    return model


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def in_inference() -> nn.Module:
    with torch.inference_mode():
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def test_a_place_where_no_file_can_lie_is_told_before_the_work(tmp_path: Path) -> None:
    def inputs() -> Iterator[Tensor]:
        pytest.fail("inputs were read")
        yield FITTING

    path = tmp_path / "nowhere" / "a.tailcut"
    with pytest.raises(ArgumentError, match="nowhere does not exist; create it first"):
        tailcut.compress(sound(), path, inputs(), max_bytes=700)
    rate_loss = tailcut.RateLoss(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), target_bytes=300, num_steps=10)
    with pytest.raises(ArgumentError, match="nowhere does not exist; create it first"):
        rate_loss.save(path, inputs())


@pytest.mark.parametrize(
    ("make", "inputs", "message"),
    [
        (
            sound,
            torch.rand(8, 3, 32, 32),
            r"cannot take inputs of shape \(8, 3, 32, 32\) and type float32: .*channels.* a dict, whose",
        ),
        (sound, torch.zeros(8, 1, 28, 28, dtype=torch.uint8), "and type uint8: "),
        (sound, torch.full((8, 1, 28, 28), float("nan")), "the loader gave numbers that are not finite"),
        (broken, FITTING, "conv1.weight has numbers that are not finite"),
        (nn.ReLU, FITTING, "the network has no parameters of floating point: there is nothing to compress"),
        (sound, torch.zeros(0, 1, 28, 28), "the loader gave no batch"),
        (constant, FITTING, "no number of the network changes its loss"),
        (prices, FITTING, r"large numbers \(coordinates, prices\), which were taken for classes\? .* a loss=$"),
        (overflowing, FITTING, "the network's outputs are not finite, in float32"),
        (on_meta, FITTING, "weight was made on the meta device"),
        (in_inference, FITTING, "weight was made under torch.inference_mode"),
    ],
)
def test_what_cannot_be_compressed_is_said(
    make: Callable[[], nn.Module], inputs: Tensor, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.tailcut"
    with pytest.raises(ArgumentError, match=message):
        tailcut.compress(make(), path, [inputs], max_bytes=700, num_gradients=8)
    assert not path.exists()


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        (lambda _: None, "evaluate must return a number, got NoneType"),
        (0.5, "evaluate must be a function of a network"),
        (lambda _: float("nan"), "evaluate gives nan for the network itself"),
        (lambda _: float("inf"), "evaluate gives inf for the network itself"),
    ],
)
def test_a_metric_that_is_none(evaluate: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=message):
        tailcut.compress(sound(), tmp_path / "a.tailcut", FITTING, max_drop=0.1, evaluate=evaluate, num_gradients=8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [0, True, 2.5])
def test_a_number_of_gradients_that_is_none(count: Any) -> None:
    with pytest.raises(ArgumentError, match="num_gradients must be a positive integer, got"):
        tailcut.measure_sensitivity(sound(), FITTING, num_gradients=count)


def test_what_no_step_allows_is_not_blamed_on_the_metric(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="metadata"):
        tailcut.compress(
            sound(),
            tmp_path / "a.tailcut",
            FITTING,
            max_drop=0.1,
            evaluate=lambda network: 1.0,
            num_gradients=8,
            metadata={"a": "x" * 100_000},
        )


@pytest.mark.parametrize("goal", [{"step": 1e4}, {"max_drop": 0.5, "evaluate": lambda network: loss_of(network)}])
def test_a_file_of_zeros_is_told(goal: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The metric is a loss: it falls least, that is rises most, for the worst network."""
    tailcut.compress(sound(), tmp_path / "a.tailcut", FITTING, num_gradients=8, step=0.01)
    assert not caplog.records
    tailcut.compress(sound(), tmp_path / "a.tailcut", FITTING, num_gradients=8, **goal)
    assert [record.getMessage()[:33] for record in caplog.records] == ["all weights are rounded to zero, "]


def loss_of(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return nn.functional.mse_loss(network(FITTING), sound()(FITTING))


class Pair(nn.Linear):
    """Gives its bias beside its output, as Megatron's layers do."""

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), None


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = Pair(784, 20), nn.Linear(20, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(self.first(x.flatten(1))[0].relu())
        return y


def test_a_layer_may_give_more_than_a_tensor(tmp_path: Path) -> None:
    report = tailcut.compress(Outer(), tmp_path / "a.tailcut", FITTING, max_bytes=9_000, num_gradients=8)
    assert report.file_bytes <= 9_000
    assert tailcut.load(tmp_path / "a.tailcut", into=Outer())(FITTING).isfinite().all()


@pytest.mark.parametrize("goal", [{"step": 0.1}, {"max_drop": 0.1, "evaluate": lambda _: 1.0}, {"max_bytes": 2000}])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metadata": {"a": float("nan")}}, "metadata must be what JSON can hold"),
        ({"sensitivity": {}}, "sensitivity must be what tailcut.measure_sensitivity gives, got dict"),
        ({"levels": (2.0,)}, "levels"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_measurement(
    goal: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    def inputs() -> Iterator[Tensor]:
        pytest.fail("inputs were read")
        yield FITTING

    with pytest.raises(ArgumentError, match=message):
        tailcut.compress(sound(), tmp_path / "a.tailcut", inputs(), num_gradients=8, **goal, **settings)


def test_statistics_that_are_none_are_told_without_an_argument_that_is_not_there(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(2704, 10)).eval()
    model[1].get_buffer("running_var")[0] = float("nan")
    with pytest.raises(
        ArgumentError, match=r"1.running_var has numbers that are not finite, .*; train the network again"
    ):
        tailcut.compress(model, tmp_path / "a.tailcut", FITTING, step=0.1, num_gradients=8)


@pytest.mark.parametrize("drop", ["0.1", True, float("nan"), -0.1])
def test_a_drop_that_is_none(drop: Any, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="the metric can fall by 0 or more, got"):
        tailcut.compress(sound(), tmp_path / "a.tailcut", FITTING, max_drop=drop, evaluate=lambda _: 1.0)


@pytest.mark.parametrize("path", [None, 5])
def test_a_path_that_is_none(path: Any) -> None:
    with pytest.raises(ArgumentError, match="expected the name of the file to write, got"):
        tailcut.compress(sound(), path, FITTING, step=0.1)


@pytest.mark.parametrize("goal", [{"step": 0.1}, {"max_bytes": 2000}])
def test_inputs_that_are_used_up(goal: dict[str, Any], tmp_path: Path) -> None:
    inputs = iter([FITTING])
    model = tailcut.load("zoo:lenet5-ref")
    sensitivity = tailcut.measure_sensitivity(model, inputs, num_gradients=8)
    goal = {"max_bytes": 40_000} if "max_bytes" in goal else goal
    with pytest.raises(ArgumentError, match="the loader gave no batch: give some of the training data"):
        tailcut.compress(model, tmp_path / "a.tailcut", inputs, sensitivity=sensitivity, **goal)


def test_outputs_without_a_tensor(tmp_path: Path) -> None:
    class Silent(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return {"name": "of nothing"}

    with pytest.raises(
        ArgumentError, match=r"expected outputs .* of floating point from the network, got a dict without"
    ):
        tailcut.compress(Silent(4, 2), tmp_path / "a.tailcut", torch.rand(8, 4), step=0.1)


@pytest.mark.parametrize("change", [nn.Module.half, nn.Module.double, lambda network: network.to("meta")])
def test_a_metric_may_change_its_network(change: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    """Which is a copy: a measurement on a GPU, or in another type, changes no file."""

    def evaluate(network: nn.Module) -> float:
        change(network)
        return 1.0

    files = [tmp_path / "a.tailcut", tmp_path / "b.tailcut"]
    for path, metric in zip(files, (evaluate, lambda _: 1.0), strict=True):
        tailcut.compress(sound(), path, FITTING, step=0.1, num_gradients=8, evaluate=metric)
    assert files[0].read_bytes() == files[1].read_bytes()
