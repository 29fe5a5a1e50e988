from typing import Any, cast

import pytest
import tests.torchvision_operators  # noqa: F401
import torch
from torch import Tensor, nn

import tailcut
from tailcut.inputs.detection import rcnn
from tailcut.inputs.selection.gate import FrequencyGate
from tailcut.inputs.stem.replace import replace_stem


def parts_of_torchvision() -> Any:
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    return resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d)


def test_the_backbone_is_torchvisions() -> None:
    ours, theirs = rcnn.make_backbone(tailcut.create_model("resnet18"), 256).eval(), parts_of_torchvision().eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 96)
    mine, expected = ours(x), theirs(x)
    assert list(mine) == list(expected) == ["0", "1", "2", "3", "pool"]
    for name, maps in expected.items():
        assert torch.allclose(mine[name], maps, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_pyramid_has_the_strides_of_rgb_on_channels(name: str) -> None:
    network = replace_stem(tailcut.create_model(name, width=8), 24)
    backbone = rcnn.make_backbone(network, 16).eval()
    maps = backbone(torch.randn(1, 24, 16, 24))  # of an image of 128 x 192, instead of RGB at 64 x 96
    sizes = [tuple(one.shape[1:]) for one in maps.values()]
    assert sizes == [(16, 16, 24), (16, 8, 12), (16, 4, 6), (16, 2, 3), (16, 1, 2)]


def test_frozen_batch_norm_gives_the_same_and_is_not_trained() -> None:
    torch.manual_seed(0)
    network = tailcut.create_model("resnet18", width=8, num_classes=3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, least in ((module.running_mean, -1.0), (module.running_var, 0.5), (module.weight, 0.5)):
                nn.init.uniform_(cast(Tensor, values), least, 2)
    x = torch.randn(2, 3, 64, 64)
    expected = network.eval()(x)
    rcnn.freeze_batch_norm(network)
    network.train()
    assert torch.allclose(network(x), expected, atol=1e-4)  # in training too
    assert not any("bn" in name for name, _ in network.named_parameters())
    assert torch.allclose(network(x[:1]), expected[:1], atol=1e-4)


def test_a_gate_keeps_its_batch_norm() -> None:
    network = replace_stem(tailcut.create_model("resnet18", width=8), 24, gate=True)
    rcnn.freeze_batch_norm(network)
    kinds = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    (gate,) = (module for module in network.modules() if isinstance(module, FrequencyGate))
    assert kinds == [gate.norm]


def test_the_strides_of_the_pooling_do_not_come_from_the_first_image() -> None:
    from torchvision.ops import roi_align

    pool = rcnn._pool(7)
    maps = {str(place): torch.randn(1, 2, 64 // 2**place, 64 // 2**place) for place in range(4)}
    box = torch.tensor([[3.0, 4.0, 15.0, 18.0]])
    # One small image in much padding, of which torchvision would guess another stride.
    found = pool(maps, [box], [(20, 20)])
    expected = roi_align(maps["0"], [box], 7, spatial_scale=1 / 4, sampling_ratio=2)
    assert torch.allclose(found, expected)
    large = torch.tensor([[0.0, 0.0, 250.0, 240.0]])  # of 224 pixels and more: the third maps
    expected = roi_align(maps["2"], [large], 7, spatial_scale=1 / 16, sampling_ratio=2)
    assert torch.allclose(pool(maps, [large], [(256, 256)]), expected)


def test_masks_are_pasted_where_the_boxes_are() -> None:
    found = {"masks": torch.ones(1, 1, 28, 28), "boxes": torch.tensor([[10.0, 4.0, 30.0, 24.0]])}
    masks = rcnn.whole_masks(found, (40, 50))
    assert masks.shape == (1, 40, 50)
    inside = masks[0] > 0.5
    expected = torch.zeros(40, 50, dtype=torch.bool)
    expected[4:24, 10:30] = True
    assert (inside != expected).sum() <= 4 * 22  # at most one pixel along the outline
    assert bool(inside[8:20, 14:26].all())
    assert not bool(inside[28:].any())
