import pytest
import torch
from torch import Tensor

from tailcut.errors import ArgumentError
from tailcut.models import LeNet300
from tailcut.structure import base_of, create_model, family


@pytest.mark.parametrize("convolutional", [False, True])
def test_counts_of_the_paper(convolutional: bool) -> None:
    with torch.device("meta"):
        without = LeNet300(bias=False, convolutional=convolutional)
        with_biases = LeNet300(convolutional=convolutional)
    assert sum(weight.numel() for weight in without.parameters()) == 266_200
    assert sum(parameter.numel() for parameter in with_biases.parameters()) == 266_200 + 410
    assert [name for name, _ in without.named_parameters()] == ["fc1.weight", "fc2.weight", "fc3.weight"]


def dense(x: Tensor, model: LeNet300) -> Tensor:
    """The oracle: three matrix products in float64."""
    numbers = {name: value.double() for name, value in model.state_dict().items()}
    x = x.double().flatten(1)
    for layer in ("fc1", "fc2", "fc3"):
        weight = numbers[f"{layer}.weight"].flatten(1)
        x = x @ weight.T + numbers.get(f"{layer}.bias", torch.zeros(len(weight)))
        x = x.clamp(min=0) if layer != "fc3" else x
    return x


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("convolutional", [False, True])
def test_forward(bias: bool, convolutional: bool) -> None:
    torch.manual_seed(0)
    model = LeNet300(bias=bias, num_classes=7, convolutional=convolutional)
    x = torch.rand(5, 1, 28, 28)
    logits = model(x)
    assert logits.shape == (5, 7)
    torch.testing.assert_close(logits.double(), dense(x, model), atol=1e-5, rtol=1e-5)


def test_both_forms_are_one_map() -> None:
    torch.manual_seed(0)
    linear, convolutional = LeNet300(), LeNet300(convolutional=True)
    numbers = linear.state_dict()
    numbers["fc1.weight"] = numbers["fc1.weight"].reshape(300, 1, 28, 28)
    convolutional.load_state_dict(numbers)
    x = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(linear(x), convolutional(x), atol=1e-5, rtol=1e-5)


def test_registered() -> None:
    model = create_model("lenet300", bias=False, convolutional=True)
    assert isinstance(model, LeNet300)
    base = base_of(model)
    assert base is not None
    assert (base.name, dict(base.arguments)) == ("lenet300", {"bias": False, "convolutional": True})
    assert list(family("lenet300").defaults) == ["bias", "num_classes", "convolutional"], "the order is stored"
    example = torch.zeros(family("lenet300").example_shape())
    assert model(example).shape == (1, 10)


def test_wrong_arguments() -> None:
    with pytest.raises(ArgumentError, match="lenet300: num_classes"):
        LeNet300(num_classes=0)
