"""The oracle: their networks on torch's functions, with the tensors under their own names (see published_dctnet.py)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tests.torchvision_operators  # noqa: F401
import torch
from tests.format.conversion.published import Numbers, Shapes, filled
from tests.format.conversion.published_dctnet import (
    anchors,
    detector,
    mobilenet_v2_dct,
    resnet50_dct,
    run_box_head,
    run_mask_head,
    run_mobilenet_v2_dct,
    run_pyramid,
    run_resnet50_dct,
    run_rpn,
)
from tests.format.conversion.stored import stored
from torch import Tensor

import tailcut
from tailcut.data.datasets.coco_categories import CATEGORIES
from tailcut.errors import ArgumentError, ModelMismatchError
from tailcut.format.conversion import dctnet
from tailcut.inputs import Selection, transform_of

# Luma and chroma of the tables of 24 and 64 channels, as the published code lists them.
TABLE_24 = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27], [0, 1, 8, 9]


@pytest.mark.parametrize("channels", [24, 192])
def test_resnet50(channels: int, tmp_path: Path) -> None:
    check(resnet50_dct, run_resnet50_dct, channels, "resnet50", 448, tmp_path)


@pytest.mark.parametrize("channels", [6, 32])
def test_mobilenet_v2(channels: int, tmp_path: Path) -> None:
    check(mobilenet_v2_dct, run_mobilenet_v2_dct, channels, "mobilenetv2", 896, tmp_path)


MEANS = [0.25 * number - 9 for number in range(192)]
SPREADS = [1 + 0.5 * number for number in range(192)]


def converted(path: Path, **settings: Any) -> Any:
    """The network of a checkpoint, with statistics as the projects' source code binds them."""
    source = path.with_name("statistics.py")
    source.write_text(f"train_upscaled_static_mean = {MEANS}\ntrain_upscaled_static_std = {SPREADS}\n")
    return dctnet.convert(path, statistics=source, **settings)


def check(
    shapes: Callable[[int], Shapes],
    run: Callable[[Numbers, Tensor], Tensor],
    channels: int,
    model: str,
    side: int,
    folder: Path,
) -> None:
    tensors = filled(shapes(channels))
    content = {"state_dict": {f"module.{name}": x for name, x in tensors.items()}, "epoch": 1, "best_prec1": 76.8}
    network = converted(stored(folder / "a.pth.tar", content), model=model)
    if channels == 6:  # saved once: it takes its time
        tailcut.save(network, folder / "a.tailcut")
        network = tailcut.load(folder / "a.tailcut")
    assert not network.training
    x = torch.randn(2, channels, 16, 16, dtype=torch.float64)
    with torch.inference_mode():
        found = network.double()(x)
    expected = run(tensors, x)
    assert (expected[0] - expected[1]).abs().max() > 1e-3 * expected.abs().max()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert tailcut.inputs.describe_stem(network.float()).image_size == (side, side)


def test_channels_are_normalised_with_their_statistics(tmp_path: Path) -> None:
    network = converted(stored(tmp_path / "a.pt", filled(mobilenet_v2_dct(24))))
    transform = transform_of(network)
    assert transform is not None
    luma, chroma = TABLE_24
    assert transform.selection.indices == (*luma, *(64 + i for i in chroma), *(128 + i for i in chroma))
    assert transform.mean.tolist() == [MEANS[index] for index in transform.selection.indices]
    assert transform.std.tolist() == [SPREADS[index] for index in transform.selection.indices]
    pixels = torch.rand(1, 3, 32, 32)
    plain = tailcut.inputs.BlockDCT(24)(pixels)
    expected = (plain - transform.mean[:, None, None]) / transform.std[:, None, None]
    torch.testing.assert_close(transform(pixels), expected, rtol=1e-4, atol=1e-3)


def test_networks_without_statistics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"--statistics.*mean_std\.py"):
        dctnet.convert(stored(tmp_path / "a.pt", filled(mobilenet_v2_dct(24))))


def test_other_networks(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    stored(path, filled(resnet50_dct(64)))
    with pytest.raises(ModelMismatchError, match="holds the tensors of 'resnet50', not of 'mobilenetv2'"):
        converted(path, model="mobilenetv2")
    stored(path, {**filled(mobilenet_v2_dct(24)), "inp_GM.inp_gate.0.weight": torch.ones(2)})
    with pytest.raises(ModelMismatchError, match="has a gate before its network"):
        converted(path)
    stored(path, filled(mobilenet_v2_dct(20)))
    with pytest.raises(ModelMismatchError, match="reads 20 channels: there is no published selection of 20"):
        converted(path)
    grouped = filled(mobilenet_v2_dct(32))
    grouped["features.0.conv.0.weight"] = torch.ones(32, 6, 3, 3)
    with pytest.raises(ModelMismatchError, match="of 192 channels has a grouped convolution"):
        converted(stored(path, grouped))
    with pytest.raises(ModelMismatchError, match="is not laid out as the published code"):
        converted(stored(path, {"a": torch.ones(1)}))


@pytest.mark.parametrize(("model", "channels"), [("faster_rcnn", 24), ("mask_rcnn", 64)])
def test_detectors(model: str, channels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = filled(detector(channels, masks=model == "mask_rcnn"))
    path = stored(tmp_path / "latest.pth", {"meta": {"epoch": 20, "config": "text"}, "state_dict": tensors})
    found: Any = converted(path, model=model).double()
    assert found.transform.dct.selection.indices == Selection.of(channels).indices
    assert found.transform.dct.mean[0].item() == MEANS[0]
    with torch.inference_mode():
        check_pyramid(found, tensors, channels)
        check_box_head(found, tensors)
        if model == "mask_rcnn":
            regions = torch.randn(2, 256, 14, 14, dtype=torch.float64)
            logits = found.roi_heads.mask_predictor(found.roi_heads.mask_head(regions))
            torch.testing.assert_close(logits[:, [0, *CATEGORIES]], run_mask_head(tensors, regions))


def check_pyramid(found: Any, tensors: Numbers, channels: int) -> None:
    x = torch.randn(1, channels, 16, 24, dtype=torch.float64)
    maps = found.backbone(x)
    expected = run_pyramid(tensors, x)
    for own, theirs in zip(maps.values(), expected, strict=True):
        torch.testing.assert_close(own, theirs)
    scores, changes = found.rpn.head(list(maps.values()))
    for level, theirs in enumerate(expected):
        their_scores, their_changes = run_rpn(tensors, theirs)
        torch.testing.assert_close((scores[level], changes[level]), (their_scores, their_changes))
    images = type("Images", (), {"tensors": torch.empty(1, 0, 64, 96), "image_sizes": [(64, 96)]})
    (own_anchors,) = found.rpn.anchor_generator(images, list(maps.values()))
    theirs = torch.cat([anchors(level, *x.shape[-2:]).flatten(0, 1) for level, x in enumerate(expected)])
    theirs[:, 2:] += 1  # their boxes end at the last pixel, ours behind it
    torch.testing.assert_close(own_anchors, theirs)


def check_box_head(found: Any, tensors: Numbers) -> None:
    regions = torch.randn(3, 256, 7, 7, dtype=torch.float64)
    scores, changes = found.roi_heads.box_predictor(found.roi_heads.box_head(regions))
    their_scores, their_changes = run_box_head(tensors, regions)
    places = [0, *CATEGORIES]
    torch.testing.assert_close(scores[:, places], their_scores)
    torch.testing.assert_close(changes.unflatten(1, (91, 4))[:, places], their_changes)
    torch.testing.assert_close(scores.softmax(1)[:, places], their_scores.softmax(1))


def test_a_detector_of_other_classes(tmp_path: Path) -> None:
    tensors = filled(detector(24, masks=False))
    tensors["bbox_head.fc_cls.weight"] = torch.ones(21, 1024)
    with pytest.raises(ModelMismatchError, match="expected a detector of COCO's 80 categories, this has 20"):
        converted(stored(tmp_path / "a.pt", tensors))
