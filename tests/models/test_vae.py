from typing import Any

import pytest
import torch
from tests.models.by_hand import ByHand, image, on_meta, relu

from tailcut.counting import count_parameters
from tailcut.errors import ArgumentError
from tailcut.models import VAE


def test_counts_of_frequency_regularization() -> None:
    """Table 4's VAE-ref: 971,200 weights."""
    assert count_parameters(on_meta(VAE, bias=False)) == 971_200
    assert count_parameters(on_meta(VAE)) == 971_200 + 2_424


@pytest.mark.parametrize("bias", [False, True])
def test_forward(bias: bool) -> None:
    torch.manual_seed(0)
    model = VAE(latent_size=3, hidden=11, bias=bias)
    by, x = ByHand(model), image(2, 1, 28, 28)
    hidden = relu(by.linear(relu(by.linear(x.flatten(1), "encoder.0")), "encoder.2"))
    mean, log_variance = by.linear(hidden, "mean"), by.linear(hidden, "log_variance")
    hidden = relu(by.linear(relu(by.linear(mean, "decoder.0")), "decoder.2"))
    expected = by.linear(hidden, "decoder.4").view(2, 1, 28, 28), mean, log_variance
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close((model.decode(mean), *model.encode(x)), expected)


@pytest.mark.parametrize("bias", [False, True])
def test_convolutional_form_is_the_same_map(bias: bool) -> None:
    torch.manual_seed(0)
    plain, model = (
        VAE(latent_size=3, hidden=11, bias=bias),
        VAE(latent_size=3, hidden=11, bias=bias, convolutional=True),
    )
    weights = plain.state_dict()
    if bias:
        weights["decoder.4.bias"] = torch.full((784,), 0.3)
    plain.load_state_dict(weights)
    weights["encoder.0.weight"] = weights["encoder.0.weight"].view(11, 1, 28, 28)
    weights["decoder.4.weight"] = weights["decoder.4.weight"].T.reshape(11, 1, 28, 28)
    if bias:
        weights["decoder.4.bias"] = weights["decoder.4.bias"][:1]
    model.load_state_dict(weights)
    x = image(2, 1, 28, 28)
    torch.testing.assert_close(model.double().eval()(x), plain.double().eval()(x))
    assert count_parameters(on_meta(VAE, bias=False, convolutional=True)) == 971_200


def test_codes_of_training_have_the_mean_and_variance() -> None:
    torch.manual_seed(0)
    model = VAE(latent_size=2, hidden=8).double()
    seen = []

    def keep(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        seen.append(args[0].detach())

    model.decoder.register_forward_pre_hook(keep)
    x = image(1, 1, 28, 28).expand(20_000, -1, -1, -1)
    _, mean, log_variance = model(x)
    code = seen.pop()
    deviation = (log_variance[0] / 2).exp()
    torch.testing.assert_close(code.mean(0), mean[0].detach(), atol=0.04 * deviation.max().item(), rtol=0)
    torch.testing.assert_close(code.std(0), deviation.detach(), atol=0, rtol=0.03)
    model.eval()(x[:1])
    assert torch.equal(seen.pop(), model.encode(x[:1])[0])


@pytest.mark.parametrize("arguments", [{"latent_size": 0}, {"hidden": 0}])
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=f"vae: {next(iter(arguments))} must be"):
        VAE(**arguments)
