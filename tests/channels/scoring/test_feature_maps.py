"""Which tensor is a layer's feature map: small networks of every kind, against tensors named by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tailcut.channels.scoring.feature_maps import as_maps, channel_axis, follow_maps, num_channels
from tailcut.errors import ArgumentError, StructureError

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Named = dict[str, Tensor]


def conv(num_in: int, num_out: int) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, 3, padding=1)


def maps_of(model: nn.Module, x: Tensor = X) -> dict[str, list[Tensor]]:
    """The maps of each convolution and linear layer, in the order in which they come."""
    found: dict[str, list[Tensor]] = {}

    def take(names: tuple[str, ...], output: Tensor) -> None:
        for name in names:
            found.setdefault(name, []).append(output.detach().clone())

    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))
    }
    with follow_maps(layers, take):
        model.eval()(x)
    return found


class Net(nn.Module):
    """A forward written in a test: it returns the tensors that shall be the maps, by layer."""

    conv: nn.Module
    inner: nn.Module
    down: nn.Module
    last: nn.Module
    bn: nn.Module
    bn2: nn.Module
    squeeze: nn.Module

    def __init__(self, forward: Callable[["Net", Tensor], Named], **layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name, layer in layers.items():
            self.add_module(name, layer)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, -1, 1)
                nn.init.normal_(module.bias)
                assert isinstance(module.running_mean, Tensor)
                nn.init.normal_(module.running_mean)
        self._forward = forward

    def forward(self, x: Tensor) -> Named:
        return {name: tensor.clone() for name, tensor in self._forward(self, x).items()}


def plain(net: Net, x: Tensor) -> Named:
    first = torch.relu(net.bn(net.conv(x)))
    second = net.last(first)
    return {"conv": first, "last": second}


def inplace(net: Net, x: Tensor) -> Named:
    y = functional.relu(net.bn(net.conv(x)), inplace=True)
    return {"conv": y, "last": net.last(y).relu_()}


def without_activation(net: Net, x: Tensor) -> Named:
    y = net.bn(net.conv(x))  # a linear bottleneck
    return {"conv": y, "last": torch.sigmoid(net.last(y))}


def residual(net: Net, x: Tensor) -> Named:
    x = functional.relu(net.conv(x))
    y = net.bn(net.inner(x))
    y += x  # the shortcut's map was final before
    y = functional.relu(y)
    return {"conv": x, "inner": y, "last": net.last(y)}


def joined_shortcut(net: Net, x: Tensor) -> Named:
    y = functional.gelu(net.bn(net.conv(x)) + net.down(x))  # one map of both
    return {"conv": y, "down": y}


def inverted_residuals(net: Net, x: Tensor) -> Named:
    x = net.bn(net.conv(x))  # consumed by the next convolution; the sum behind belongs to that one
    y = net.bn(net.inner(x)) + x
    return {"conv": x, "inner": y, "last": functional.hardswish(net.last(y))}


def preactivated(net: Net, x: Tensor) -> Named:
    x = net.conv(x)
    before = torch.relu(net.bn(x))  # the activation behind conv, in the next block
    x = net.inner(before) + x
    after = torch.relu(net.bn(x))
    return {"conv": before, "inner": after, "last": net.last(after)}


def dense(net: Net, x: Tensor) -> Named:
    x = net.conv(x)
    a = torch.relu(net.bn(x))
    y = net.inner(a)
    b = torch.relu(net.bn2(torch.cat([x, y], dim=1)))
    return {"conv": a, "inner": b[:, 4:]}


def concatenated_before_activation(net: Net, x: Tensor) -> Named:
    y = torch.cat([net.last(x), net.conv(x)], 1)
    y = functional.elu(y)
    return {"last": y[:, :5], "conv": y[:, 5:]}


def concatenated_twice(net: Net, x: Tensor) -> Named:
    y = torch.cat((x, torch.cat((net.last(x), net.conv(x)), dim=-3)), dim=1).relu()
    return {"last": y[:, 3:8], "conv": y[:, 8:]}


def concatenated_with_an_empty_vector(net: Net, x: Tensor) -> Named:
    y = functional.elu(torch.cat([torch.tensor([]), net.conv(x)], 1))
    return {"conv": y}


def concatenated_in_space(net: Net, x: Tensor) -> Named:
    y = net.conv(x)
    torch.cat([y, y], dim=2).relu()
    return {"conv": y}


def squeeze_and_excite(net: Net, x: Tensor) -> Named:
    y = net.bn(net.conv(x))
    gate = torch.sigmoid(net.squeeze(y.mean((2, 3), keepdim=True)))
    y = torch.relu(y * gate)
    return {"conv": y, "squeeze": gate}


def pooled_before_activation(net: Net, x: Tensor) -> Named:
    y = torch.relu(functional.max_pool2d(net.conv(x), 2))
    return {"conv": y, "last": net.last(y)}


def averaged(net: Net, x: Tensor) -> Named:
    y = net.conv(x)
    functional.adaptive_avg_pool2d(y, 1).flatten(1)
    return {"conv": y}


def padded_by_itself(net: Net, x: Tensor) -> Named:
    y = net.bn(net.conv(x))
    z = net.inner(functional.pad(y, (1, 1, 1, 1)))[:, :, 1:-1, 1:-1]
    torch.relu(z + y)  # not the map of conv: pad took it before
    return {"conv": y}


def looked_at(net: Net, x: Tensor) -> Named:
    y = net.conv(x)
    assert y.shape[1] == 4
    assert y.numel() > 0
    assert y.dim() == 4
    return {"conv": torch.relu(y)}


NETWORKS = [
    plain,
    inplace,
    without_activation,
    residual,
    joined_shortcut,
    inverted_residuals,
    preactivated,
    dense,
    concatenated_before_activation,
    concatenated_twice,
    concatenated_with_an_empty_vector,
    concatenated_in_space,
    squeeze_and_excite,
    pooled_before_activation,
    averaged,
    padded_by_itself,
    looked_at,
]


@pytest.mark.parametrize("forward", NETWORKS, ids=lambda forward: forward.__name__)
def test_map_is_where_the_forward_says(forward: Callable[[Net, Tensor], Named]) -> None:
    layers = {
        "conv": conv(3, 4),
        "inner": conv(4, 4),
        "down": conv(3, 4),
        "last": conv(4, 5),
        "bn": nn.BatchNorm2d(4),
        "bn2": nn.BatchNorm2d(8),
        "squeeze": nn.Conv2d(4, 4, 1),
    }
    if forward in (concatenated_before_activation, concatenated_twice):
        layers["last"] = conv(3, 5)
    net = Net(forward, **layers)
    found = maps_of(net)
    expected = net(X)
    for name, tensor in expected.items():
        (own,) = found[name]
        assert torch.equal(own, tensor), name


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.ReLU6(),
        nn.LeakyReLU(),
        nn.PReLU(),
        nn.ELU(),
        nn.SELU(),
        nn.CELU(),
        nn.GELU(),
        nn.SiLU(),
        nn.Mish(),
        nn.Sigmoid(),
        nn.LogSigmoid(),
        nn.Hardsigmoid(),
        nn.Hardswish(),
        nn.Hardtanh(),
        nn.Tanh(),
        nn.Softplus(),
        nn.Softsign(),
        nn.Threshold(0.1, 0.0),
        nn.RReLU(),
        nn.Softshrink(),
        nn.Hardshrink(),
        nn.Tanhshrink(),
    ],
    ids=lambda module: type(module).__name__,
)
def test_modules_that_are_activations(activation: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        conv(3, 4), nn.BatchNorm2d(4), nn.Dropout(), nn.Identity(), activation, nn.BatchNorm2d(4, momentum=None)
    )
    with torch.no_grad():
        next(model[-1].parameters()).fill_(3.0)  # what follows the activation does not count
    (found,) = maps_of(model)["0"]
    assert torch.equal(found, model[:-1](X))
    assert not torch.equal(found, model(X))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LocalResponseNorm(2)])
def test_normalisations_are_followed(norm: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 4), norm, nn.ReLU(), nn.Flatten())
    (found,) = maps_of(model)["0"]
    assert torch.equal(found, model[:3](X))


def test_shared_layer_gives_a_map_each_time() -> None:
    shared = conv(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Tanh())
    first, second = maps_of(model)["0"]
    assert torch.equal(first, model[:2](X))
    assert torch.equal(second, model(X))


def test_linear_layers_and_one_axis() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(2, 3, 8)
    found = maps_of(model, x)
    assert torch.equal(found["0"][0], model[:2](x))
    assert torch.equal(found["3"][0], model[:5](x))
    assert torch.equal(found["5"][0], model(x))


def test_hooks_are_removed_even_after_an_error() -> None:
    model = nn.Sequential(conv(3, 4), nn.ReLU())
    maps_of(model)
    assert len(model[0]._forward_hooks) == 0
    with pytest.raises(RuntimeError):
        maps_of(model, torch.zeros(2, 5, 8, 8))
    assert len(model[0]._forward_hooks) == 0


def test_a_forward_is_not_changed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 4), nn.ReLU(inplace=True), conv(4, 4), nn.Flatten(), nn.Linear(256, 2)).eval()
    expected = model(X)
    with follow_maps({"0": model[0], "2": model[2]}, lambda names, maps: None):
        assert torch.equal(model(X), expected)


def test_maps_carry_gradients() -> None:
    model = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 1))
    found: list[Tensor] = []
    with follow_maps({"0": model[0]}, lambda names, maps: found.append(maps)):
        output = model(X)
    (gradient,) = torch.autograd.grad(output.sum(), found[0])
    assert gradient.shape == (2, 4, 8, 8)
    assert gradient.abs().sum() > 0


def test_an_image_without_batch_axis_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"layer 0 gives \(4, 8, 8\), 4 axes were expected: give the network batches"
    ):
        maps_of(nn.Sequential(conv(3, 4)), X[0])


@pytest.mark.parametrize(
    ("shape", "axis", "expected"),
    [
        ((2, 3, 5, 7), 1, (2, 3, 5, 7)),
        ((2, 3, 7), 1, (2, 3, 1, 7)),
        ((2, 3, 4, 5, 6), 1, (8, 3, 5, 6)),
        ((2, 3), -1, (2, 3, 1, 1)),
        ((2, 5, 3), -1, (2, 3, 1, 5)),
        ((2, 4, 5, 3), -1, (2, 3, 1, 20)),
    ],
)
def test_outputs_as_maps_of_two_axes(shape: tuple[int, ...], axis: int, expected: tuple[int, ...]) -> None:
    output = torch.arange(float(torch.tensor(shape).prod())).view(shape)
    maps = as_maps(output, axis)
    assert maps.shape == expected
    # Every channel has the numbers that it had.
    own = output.movedim(axis, 0).flatten(1).sort(dim=1).values
    assert torch.equal(maps.transpose(0, 1).flatten(1).sort(dim=1).values, own)


def test_slices_of_a_volume_stay_whole() -> None:
    output = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(as_maps(output, 1)[5, 2], output[1, 2, 1])


def test_channels_of_layers() -> None:
    assert (num_channels(nn.ConvTranspose2d(3, 7, 2)), channel_axis(nn.ConvTranspose2d(3, 7, 2))) == (7, 1)
    assert (num_channels(nn.Linear(3, 6)), channel_axis(nn.Linear(3, 6))) == (6, -1)
    with pytest.raises(StructureError, match="Embedding"):
        num_channels(nn.Embedding(3, 4))
