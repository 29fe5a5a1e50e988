import numpy as np
import pytest
import torch
from scipy.signal import correlate

from tailcut.errors import ArgumentError
from tailcut.models import LeNet5
from tailcut.structure import base_of, create_model, family


@pytest.mark.parametrize("convolutional", [False, True])
def test_counts_of_the_paper(convolutional: bool) -> None:
    with torch.device("meta"):
        without = LeNet5(bias=False, convolutional=convolutional)
        with_biases = LeNet5(convolutional=convolutional)
    assert sum(weight.numel() for weight in without.parameters()) == 430_500
    assert sum(parameter.numel() for parameter in with_biases.parameters()) == 430_500 + 580
    names = [name for name, _ in without.named_parameters()]
    assert names == ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"]


def numpy_lenet5(image: np.ndarray, model: LeNet5, *, conv_relu: bool) -> np.ndarray:
    """The oracle: Caffe's network in float64 with SciPy's correlation."""
    numbers = {name: value.double().numpy() for name, value in model.state_dict().items()}
    maps = image.astype(np.float64)
    for layer in ("conv1", "conv2"):
        weight, bias = numbers[f"{layer}.weight"], numbers[f"{layer}.bias"]
        maps = np.stack([correlate(maps, kernel, mode="valid")[0] for kernel in weight]) + bias[:, None, None]
        channels, height, width = maps.shape
        maps = maps.reshape(channels, height // 2, 2, width // 2, 2).max(axis=(2, 4))
        maps = np.maximum(maps, 0) if conv_relu else maps
    weight = numbers["fc1.weight"].reshape(500, 800)
    hidden = np.maximum(weight @ maps.ravel() + numbers["fc1.bias"], 0)
    return np.asarray(numbers["fc2.weight"] @ hidden + numbers["fc2.bias"])


@pytest.mark.parametrize("conv_relu", [False, True])
@pytest.mark.parametrize("convolutional", [False, True])
def test_forward(convolutional: bool, conv_relu: bool) -> None:
    torch.manual_seed(0)
    model = LeNet5(convolutional=convolutional, conv_relu=conv_relu)
    x = torch.rand(3, 1, 28, 28)
    expected = np.stack([numpy_lenet5(image.numpy(), model, conv_relu=conv_relu) for image in x])
    np.testing.assert_allclose(model(x).detach().numpy(), expected, atol=1e-5)
    other = np.stack([numpy_lenet5(image.numpy(), model, conv_relu=not conv_relu) for image in x])
    assert np.abs(other - expected).max() > 1e-3, "the test tells the two networks apart"


def test_both_forms_are_one_map() -> None:
    torch.manual_seed(0)
    linear, convolutional = LeNet5(), LeNet5(convolutional=True)
    numbers = linear.state_dict()
    numbers["fc1.weight"] = numbers["fc1.weight"].reshape(500, 50, 4, 4)
    convolutional.load_state_dict(numbers)
    x = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(linear(x), convolutional(x), atol=1e-5, rtol=1e-5)


def test_registered() -> None:
    model = create_model("lenet5", num_classes=4, conv_relu=True)
    assert isinstance(model, LeNet5)
    base = base_of(model)
    assert base is not None
    assert (base.name, dict(base.arguments)) == ("lenet5", {"num_classes": 4, "conv_relu": True})
    order = ["bias", "num_classes", "convolutional", "conv_relu"]
    assert list(family("lenet5").defaults) == order, "the order is stored"
    assert model(torch.zeros(family("lenet5").example_shape())).shape == (1, 4)


def test_wrong_arguments() -> None:
    with pytest.raises(ArgumentError, match="lenet5: num_classes"):
        LeNet5(num_classes=-1)
