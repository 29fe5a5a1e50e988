"""Moved statistics and biases: channels of the rounded network have the means of the original."""

import pytest
import torch
from conformance.torch_networks import Conv1D
from torch import nn

from tailcut.compression.post_training.correction import Original, write_numbers
from tailcut.model_inputs import loader_inputs


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    for _ in range(40):
        model(torch.randn(16, 3, 9, 9) + 1)
    return model.eval()


def rounded(model: nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        name: (value + 0.15 * value.std() * torch.randn_like(value)).reshape(-1)
        for name, value in model.named_parameters()
        if value.ndim > 1
    }


def test_the_corrected_network_is_closer() -> None:
    model, inputs = network(), [torch.randn(32, 3, 9, 9) + 1 for _ in range(6)]
    numbers = rounded(model)
    moved = Original(model, list(loader_inputs(inputs))).corrected(numbers)
    unmoved = Original(model, list(loader_inputs(inputs))).corrected({})
    write_numbers(unmoved, numbers)
    for name, value in model.named_parameters():
        if value.ndim > 1:  # the weights of the result are the original's, to be rounded
            assert torch.equal(value, moved.get_parameter(name))
    write_numbers(moved, numbers)
    x = torch.randn(200, 3, 9, 9) + 1  # others
    with torch.no_grad():
        errors = [float((found(x) - model(x)).square().mean()) for found in (moved, unmoved)]
    assert errors[0] < 0.7 * errors[1]


def test_biases_of_transposed_convolutions_move() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2)).eval()
    numbers, x = rounded(model), torch.randn(32, 3, 9, 9) + 1
    moved = Original(model, list(loader_inputs(x))).corrected(numbers)
    write_numbers(moved, numbers)
    with torch.no_grad():
        torch.testing.assert_close(moved(x).mean((0, 2, 3)), model(x).mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_means_are_those_of_the_original() -> None:
    model, inputs = network(), torch.randn(64, 3, 9, 9)
    numbers = rounded(model)
    moved = Original(model, list(loader_inputs(inputs))).corrected(numbers)
    write_numbers(moved, numbers)
    before, after = list(model.children()), list(moved.children())
    with torch.no_grad():
        for depth in (1, 4):  # in front of each norm
            means = [
                nn.Sequential(*parts[:depth])(inputs).mean((0, 2, 3)) - parts[depth].get_buffer("running_mean")
                for parts in (before, after)
            ]
            torch.testing.assert_close(means[1], means[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(moved(inputs).mean(0), model(inputs).mean(0), rtol=1e-4, atol=1e-4)


def test_nothing_moves_where_nothing_is_rounded() -> None:
    model = network()
    moved = Original(model, list(loader_inputs(torch.randn(16, 3, 9, 9)))).corrected({})
    for wanted, found in zip(model.state_dict().values(), moved.state_dict().values(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_layers_that_run_twice_stay() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.line(self.line(x))
            return result

    model = Twice().eval()
    original = Original(model, list(loader_inputs(torch.randn(8, 4))))
    moved = original.corrected({"line.weight": torch.zeros(16)})
    assert torch.equal(moved.get_parameter("line.bias"), model.line.bias)


def test_gpt_2_s_linear_layers_are_corrected_as_torch_s() -> None:
    turned, usual = (nn.Sequential(kind(5, 6), nn.ReLU(), kind(6, 4)).eval() for kind in (turned_linear, nn.Linear))
    x, found = torch.randn(40, 5), []
    for one, other in ((usual[0], turned[0]), (usual[2], turned[2])):
        other.load_state_dict({"weight": one.get_parameter("weight").T, "bias": one.get_parameter("bias")})
    for model in (usual, turned):
        numbers = {"0.weight": model[0].get_parameter("weight").detach().round().reshape(-1)}
        found.append(Original(model, list(loader_inputs(x))).corrected(numbers).state_dict())
    for name in ("0.bias", "2.bias"):
        torch.testing.assert_close(found[1][name], found[0][name])
        assert not torch.equal(found[0][name], usual.state_dict()[name])


def turned_linear(num_in: int, num_out: int) -> nn.Module:
    return Conv1D(num_out, num_in)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Conv1d(3, 8, 3), (3, 40)),
        (nn.Conv2d(3, 7, 3), (3, 9, 9)),  # as high as it has channels
        (nn.ConvTranspose2d(3, 5, 2, 2), (3, 8, 8)),
        (nn.Sequential(nn.InstanceNorm1d(3, affine=True, track_running_stats=True), nn.Conv1d(3, 8, 3)), (3, 40)),
    ],
    ids=["1d", "2d", "transposed", "instance norm"],
)
def test_an_image_without_a_batch_axis_has_channels_too(model: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = model.eval(), torch.randn(shape) + 1
    numbers = rounded(model)
    batched = Original(model, list(loader_inputs([x[None]]))).corrected(numbers)
    single = Original(model, list(loader_inputs([x]))).corrected(numbers)
    for name, value in batched.state_dict().items():
        torch.testing.assert_close(single.state_dict()[name], value)
    assert any(not torch.equal(value, single.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_bias_of_several_layers_is_left_as_it_is() -> None:
    """What fits the first would not fit the second."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    model[2].bias = model[0].bias
    moved = Original(model, list(loader_inputs(torch.randn(64, 6) + 1))).corrected(rounded(model))
    assert torch.equal(moved.get_parameter("0.bias"), model[0].get_parameter("bias"))
    assert moved.get_parameter("2.bias") is moved.get_parameter("0.bias")
    assert not torch.equal(moved.get_parameter("4.bias"), model[4].get_parameter("bias"))
