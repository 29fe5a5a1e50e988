import pytest
import torch
from torch import nn

from tailcut.errors import StructureError
from tailcut.inputs.stem import surgery

LAYERS: list[tuple[nn.Module, nn.Module]] = [
    (nn.Conv2d(6, 4, 3), nn.Conv2d(12, 4, 3)),
    (nn.Conv2d(6, 4, (3, 5), bias=False), nn.Conv2d(12, 4, (3, 5), bias=False)),
    (nn.Conv2d(6, 4, 3, groups=2), nn.Conv2d(12, 4, 3, groups=2)),
    (nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(12, 12, 3, groups=12)),
    (nn.Conv2d(6, 18, 3, groups=6), nn.Conv2d(12, 36, 3, groups=12)),
    (nn.BatchNorm2d(6), nn.BatchNorm2d(12)),
    (nn.BatchNorm2d(6, affine=False), nn.BatchNorm2d(12, affine=False)),
    (nn.BatchNorm2d(6, track_running_stats=False), nn.BatchNorm2d(12, track_running_stats=False)),
    (nn.InstanceNorm2d(6, affine=True), nn.InstanceNorm2d(12, affine=True)),
    (nn.GroupNorm(3, 6), nn.GroupNorm(3, 12)),
    (nn.PReLU(6), nn.PReLU(12)),
]


@pytest.mark.parametrize(("layer", "wanted"), LAYERS, ids=lambda layer: str(layer))
def test_a_resized_layer_is_one_that_was_made_so(layer: nn.Module, wanted: nn.Module) -> None:
    assert surgery.takes_channels(layer) == 6
    widths = surgery.new_widths(layer, 12)
    surgery.check_widths("layer", layer, widths)
    surgery.resize(layer, widths)
    assert str(layer) == str(wanted)
    assert surgery.takes_channels(layer) == 12
    state, expected = layer.state_dict(), wanted.state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {name: t.shape for name, t in expected.items()}
    if not isinstance(layer, nn.Conv2d):
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    wanted.load_state_dict(state)
    x = torch.randn(2, 12, 6, 6)
    torch.testing.assert_close(layer.eval()(x), wanted.eval()(x))


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.PReLU(), nn.Linear(6, 4), nn.LayerNorm(6), nn.Identity()])
def test_layers_that_take_any_number_or_cannot_change(layer: nn.Module) -> None:
    assert surgery.takes_channels(layer) is None
    with pytest.raises(StructureError, match="whose channels cannot be changed"):
        surgery.check_widths("a", layer, (12, 12, 0))


def test_new_convolutions_start_as_he_et_al() -> None:
    layer = nn.Conv2d(64, 128, 3)
    torch.manual_seed(0)
    surgery.initialize(layer)
    assert float(layer.weight.detach().std()) == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert layer.bias is not None
    assert float(layer.bias.detach().abs().max()) == 0
    norm = nn.BatchNorm2d(3)
    surgery.initialize(norm)
    assert torch.equal(norm.weight.detach(), torch.ones(3))


def test_type_and_device_stay() -> None:
    layer = nn.Conv2d(6, 4, 3, dtype=torch.bfloat16)
    surgery.resize(layer, (3, 4, 1))
    assert layer.weight.dtype == torch.bfloat16
    ghost = nn.BatchNorm2d(6, device="meta")
    surgery.resize(ghost, (3, 3, 0))
    assert ghost.weight.is_meta
    assert ghost.running_mean is not None
    assert (ghost.running_mean.is_meta, ghost.running_mean.shape) == (True, (3,))
    assert surgery.like_model(layer).dtype == torch.bfloat16
    assert surgery.like_model(nn.Identity()).dtype == torch.float32
    assert surgery.projection(3, 5, torch.empty(0, dtype=torch.float64))[0].weight.dtype == torch.float64


def test_replacing_keeps_the_mode_and_finds_every_place() -> None:
    shared = nn.ReLU().eval()
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.ReLU())})
    new = nn.Identity()
    surgery.replace(model, "a", new)
    assert model["a"] is new
    assert model["b"][0] is new  # type: ignore[index]
    assert isinstance(model["b"][1], nn.ReLU)  # type: ignore[index]
    assert not new.training


def test_empty_shortcuts() -> None:
    def block(**attributes: nn.Module | None) -> nn.Module:
        module = nn.Module()
        for name, value in attributes.items():
            setattr(module, name, value)
        return module

    assert surgery.empty_shortcut(block(downsample=None)) == "downsample"
    assert surgery.empty_shortcut(block(downsample=nn.Identity())) == "downsample"
    assert surgery.empty_shortcut(block(shortcut=nn.Sequential())) == "shortcut"
    assert surgery.empty_shortcut(block(shortcut=nn.Sequential(nn.ReLU()))) is None
    assert surgery.empty_shortcut(block(downsample=nn.Conv2d(1, 1, 1))) is None
    assert surgery.empty_shortcut(nn.Identity()) is None


def test_a_finer_convolution_sorts_its_maps() -> None:
    convolution = nn.Conv2d(3, 2 * 9, 1)
    finer = surgery.FinerConvolution(convolution, 3)
    finer.add_module("another", nn.Flatten())
    x = torch.randn(4, 3, 5, 7)
    coarse = convolution(x).reshape(4, 2, 3, 3, 5, 7)
    torch.testing.assert_close(finer(x), coarse.permute(0, 1, 4, 2, 5, 3).reshape(4, 2, 15, 21))
