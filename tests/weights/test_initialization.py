import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tailcut
from tailcut.errors import ArgumentError, StructureError
from tailcut.weights import (
    initialize_coefficients,
    initialize_norms,
    lsuv_init,
    regularize,
    truncate_norms,
    truncated_tensors,
)


def network() -> nn.Sequential:
    """Convolution, transposed convolution and linear layers without normalisation, smooth along their channels."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 24, 2, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(24 * 12 * 12, 40),
        nn.ReLU(),
        nn.Linear(40, 10),
    )
    regularize(model, num_kept=60)
    return model


def images(number: int = 64) -> Tensor:
    return torch.rand(number, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def outputs_of(model: nn.Sequential, inputs: Tensor) -> dict[str, Tensor]:
    """What each layer with weights gives, channels last: (numbers, channels)."""
    found = {}
    with torch.no_grad():
        for name, module in model.eval().named_children():
            inputs = module(inputs)
            if hasattr(module, "weight"):
                found[name] = inputs.movedim(1, -1).flatten(0, -2)
    return found


def test_every_layer_gives_mean_zero_and_variance_one() -> None:
    model = network()
    before = outputs_of(model, images())
    assert float(before["10"].std(0).mean()) < 1e-2  # or there would be nothing to do
    factors = lsuv_init(model.train(), images())
    assert list(factors) == ["0.weight", "2.weight", "4.weight", "8.weight", "10.weight"]
    for name, outputs in outputs_of(model, images()).items():
        assert float(outputs.var(0).mean()) == pytest.approx(1, rel=1e-3), name
        if name != "2":  # it has no bias
            torch.testing.assert_close(outputs.mean(0), torch.zeros(outputs.shape[1]), atol=1e-3, rtol=0)


def test_one_image_without_a_batch_has_channels_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    regularize(model, num_kept=60)
    alone = copy.deepcopy(model)
    image = torch.rand(3, 12, 10)
    assert lsuv_init(alone, image) == lsuv_init(model, image[None])
    torch.testing.assert_close(alone(image).mean((1, 2)), torch.zeros(8), atol=1e-4, rtol=0)


def test_weights_are_multiplied_by_what_is_returned() -> None:
    model = network()
    before = {tensor.name: tensor.vector.detach().clone() for tensor in truncated_tensors(model)}
    factors = lsuv_init(model, images())
    for tensor in truncated_tensors(model):
        torch.testing.assert_close(tensor.vector.detach(), before[tensor.name] * factors[tensor.name])


def test_modes_hooks_gradients_and_random_numbers_stay() -> None:
    model = network().train()
    model[5].eval()
    state = torch.random.get_rng_state()
    lsuv_init(model, images())
    assert [module.training for module in model] == [n != 5 for n in range(len(model))]
    assert model.training
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_truncated_bias_is_scaled_along() -> None:
    torch.manual_seed(0)
    model = nn.Linear(20, 30)
    regularize(model, num_kept=10, include=("*",))
    inputs = torch.randn(50, 20)
    before = model(inputs).detach()
    (factor,) = lsuv_init(model, inputs).values()
    torch.testing.assert_close(model(inputs).detach(), before * factor)


def test_plain_layers_and_normalisation_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(512, 5))
    regularize(model, num_kept=20, exclude=("2.*",))
    before = {name: value.clone() for name, value in model.state_dict().items() if name.startswith(("1.", "2."))}
    assert list(lsuv_init(model, images())) == ["0.weight", "4.weight"]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_layers_beside_attention_are_scaled() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, batch_first=True)
    regularize(model, num_kept=40, include=("linear*.weight",))
    assert list(lsuv_init(model, torch.randn(8, 5, 16))) == ["linear1.weight", "linear2.weight"]


def test_a_shared_weight_is_scaled_once() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
            self.second.weight = self.first.weight

        def forward(self, inputs: Tensor) -> Any:
            return self.second(self.first(self.first(inputs)))

    torch.manual_seed(0)
    model = Shared()
    regularize(model, num_kept=30)
    inputs = torch.randn(200, 16)
    assert len(lsuv_init(model, inputs)) == 1
    assert float(model.first(inputs).detach().var(0).mean()) == pytest.approx(1, rel=1e-3)


def test_a_deep_network_without_normalisation_tells_images_apart() -> None:
    torch.manual_seed(0)
    plain = tailcut.create_model("alexnet", num_classes=10, width=8, hidden=64, resize=64, dropout=0.0)
    regularize(plain, num_kept=60)
    inputs = torch.rand(16, 3, 32, 32)
    standardized = copy.deepcopy(plain)
    lsuv_init(standardized, inputs)
    spreads = [float(model.eval()(inputs).detach().var(0).mean()) for model in (plain, standardized)]
    assert spreads[0] < 1e-8
    assert spreads[1] == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.ones(8, 3, 12, 12), "8: expected outputs that differ from input to input"),
        (torch.full((8, 3, 12, 12), float("nan")), "0: expected outputs that differ .* nan"),
        (images(1), "8: expected outputs .*there is only one"),
        (images(0), "there are none"),
    ],
)
def test_inputs_that_tell_nothing_are_refused_and_nothing_changes(inputs: Tensor, message: str) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ArgumentError, match=message):
        lsuv_init(model, inputs)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_single_vector_is_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 4))
    regularize(model, num_kept=6)
    with pytest.raises(ArgumentError, match="there is only one"):
        lsuv_init(model, torch.rand(8))


def test_what_has_no_truncated_layer_is_refused() -> None:
    with pytest.raises(StructureError, match="not regularised"):
        lsuv_init(nn.Linear(3, 3), torch.randn(5, 3))

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs @ self.layer.weight

    model = Functional()
    regularize(model, num_kept=9)
    with pytest.raises(StructureError, match="called no layer"):
        lsuv_init(model, torch.randn(5, 8))


def normalized_network(channels: int = 512) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, channels, 3),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=False),
        nn.Linear(4, 4),
        nn.GroupNorm(1, 4),
    )


def test_gains_and_biases_get_noise_and_nothing_else_does() -> None:
    torch.manual_seed(0)
    model = normalized_network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert initialize_norms(model, 0.5) == ["1"]
    after = model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"1.weight", "1.bias"}
    gains, biases = after["1.weight"] - 1, after["1.bias"]
    for noise in (gains, biases):
        assert float(noise.std()) == pytest.approx(0.5, rel=0.15)
        assert float(noise.mean()) == pytest.approx(0, abs=0.1)
    assert abs(float(torch.corrcoef(torch.stack([gains, biases]))[0, 1])) < 0.2  # noise of their own


def test_channels_that_truncation_made_alike_differ() -> None:
    def resemblance() -> float:
        """Mean correlation of each channel with the next, over places and images."""
        inputs = torch.randn(8, 3, 12, 12)
        outputs = model[:3](inputs).movedim(1, 0).flatten(1)
        outputs = outputs[outputs.std(1) > 0]
        return float(torch.corrcoef(outputs).diagonal(1).mean())

    torch.manual_seed(0)
    model = normalized_network(64).train()
    regularize(model, num_kept=8)
    with torch.no_grad():
        alike = resemblance()
        initialize_norms(model)
        assert alike > 0.95
        assert resemblance() < 0.7


def test_the_seed_decides_and_what_was_there_counts() -> None:
    def spread(seed: int) -> nn.BatchNorm1d:
        norm = nn.BatchNorm1d(1000)
        nn.init.zeros_(norm.weight)  # as some networks begin their residual branches
        torch.manual_seed(seed)
        initialize_norms(norm, 0.1)
        return norm

    one, same, other = spread(1), spread(1), spread(2)
    assert torch.equal(one.weight, same.weight)
    assert torch.equal(one.bias, same.bias)
    assert not torch.equal(one.weight, other.weight)
    assert float(one.weight.detach().mean()) == pytest.approx(0, abs=0.02)


def test_frozen_gains_stay() -> None:
    norm = nn.BatchNorm2d(4)
    norm.weight.requires_grad_(False)
    assert initialize_norms(norm) == [""]
    assert torch.equal(norm.weight, torch.ones(4))
    assert not torch.equal(norm.bias, torch.zeros(4))


@pytest.mark.parametrize("std", [0, -1.0, float("nan"), float("inf"), True, "1"])
def test_a_deviation_out_of_range_is_refused(std: object) -> None:
    norm = nn.BatchNorm2d(4)
    with pytest.raises(ArgumentError, match="std must be a finite number above 0"):
        initialize_norms(norm, std)  # type: ignore[arg-type]
    assert torch.equal(norm.weight, torch.ones(4))


def test_a_network_without_such_layers_is_reported() -> None:
    with pytest.raises(StructureError, match="expected batch norm with gains or biases that train"):
        initialize_norms(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)))


def test_gains_that_are_coefficients_get_no_noise() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8))
    truncate_norms(model, 4)
    with pytest.raises(StructureError, match=r"the network has none \(truncate_norms comes after\)"):
        initialize_norms(model)


def test_fused_views_and_norms_without_a_size() -> None:
    model, images = network(), torch.randn(16, 3, 12, 12)
    twin = copy.deepcopy(model)
    assert lsuv_init(tailcut.fuse(model), images) == lsuv_init(twin, images)
    lazy = nn.Sequential(nn.BatchNorm2d(3), nn.LazyBatchNorm2d())
    assert initialize_norms(lazy) == ["0"]


def test_convolutions_are_drawn_by_all_their_inputs() -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(32, 64, 3)
    tailcut.regularize(model, num_kept=4000, warn=False)
    initialize_coefficients(model, "he")
    assert float(model.weight.detach().var()) == pytest.approx(2 / (32 * 9), rel=0.1)


def test_inputs_may_be_several_and_have_names() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(5, 4), nn.Linear(3, 4)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.one(x) + self.two(y)
            return out

    model = Sum()
    regularize(model, keep_ratio=0.5)
    twin, x, y = copy.deepcopy(model), torch.randn(50, 5), torch.randn(50, 3)
    assert lsuv_init(model, (x, y)) == lsuv_init(twin, {"y": y, "x": x})
    with pytest.raises(ArgumentError, match="example_input must be a tensor, a tuple of tensors"):
        lsuv_init(model, 3)  # type: ignore[arg-type]


def test_draws_may_have_a_generator_of_their_own() -> None:
    def drawn(seed: int) -> torch.Tensor:
        model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))
        regularize(model, keep_ratio=0.5)
        generator = torch.Generator().manual_seed(seed)
        initialize_norms(model, generator=generator)
        initialize_coefficients(model, "he", generator=generator)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    before = torch.get_rng_state()
    nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    first = drawn(1)
    assert torch.equal(torch.get_rng_state(), after)  # of making the network alone
    torch.set_rng_state(before)
    assert torch.equal(drawn(1), first)
    torch.set_rng_state(before)
    assert not torch.equal(drawn(2), first)
