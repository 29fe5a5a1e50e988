import sys
from pathlib import Path
from typing import Any

import pytest
import tests.torchvision_operators  # noqa: F401
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.small_coco import TINY
from torch import Tensor, nn

import tailcut
from tailcut.errors import ArgumentError, DataError, MissingExtraError
from tailcut.inputs import BlockDCT, Selection, triangle, use_ycbcr
from tailcut.inputs.detection.detectors import Detector, MaskRCNN, faster_rcnn, mask_rcnn
from tailcut.inputs.stem.replace import replace_stem

Target = dict[str, Tensor]


def make(masks: bool = True, **changes: Any) -> Detector:
    torch.manual_seed(0)
    return (mask_rcnn if masks else faster_rcnn)(**{**TINY, **changes})


def scene(*sizes: tuple[int, int]) -> tuple[list[Tensor], list[Target]]:
    """Images of noise, each with one object but the last, which has none."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, *size, generator=generator) for size in sizes]
    targets = []
    for place, (height, width) in enumerate(sizes):
        count = 0 if place == len(sizes) - 1 else 1
        masks = torch.zeros(count, height, width, dtype=torch.bool)
        masks[:, 5:30, 10:40] = True
        box = torch.tensor([[10.0, 5.0, 40.0, 30.0]])
        targets.append({"boxes": box[:count], "labels": torch.full((count,), 2), "masks": masks})
    return images, targets


def numbers(found: list[Target]) -> list[Tensor]:
    return [value for one in found for value in one.values()]


def peer_of_torchvision(masks: bool) -> nn.Module:
    """The detector that `make(masks, reads="rgb", ...)` shall be."""
    from torchvision.models import resnet18
    from torchvision.models.detection import faster_rcnn as faster
    from torchvision.models.detection import mask_rcnn as masked
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops import FrozenBatchNorm2d

    layers = {f"layer{number + 1}": str(number) for number in range(4)}
    body = resnet18(weights=None, norm_layer=FrozenBatchNorm2d)
    arguments: dict[str, Any] = {
        "box_head": faster.TwoMLPHead(16 * 49, 32),
        "box_predictor": faster.FastRCNNPredictor(32, 4),
    }
    if masks:
        arguments["mask_head"] = masked.MaskRCNNHeads(16, (16, 16, 16, 16), 1)
        arguments["mask_predictor"] = masked.MaskRCNNPredictor(16, 16, 4)
    peer: nn.Module = (masked.MaskRCNN if masks else faster.FasterRCNN)(
        BackboneWithFPN(body, layers, [64, 128, 256, 512], 16),
        min_size=64,
        max_size=96,
        box_score_thresh=0.0,
        box_batch_size_per_image=32,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=50,
        **arguments,
    )
    return peer


@pytest.mark.parametrize("masks", [False, True])
def test_the_rgb_detector_is_torchvisions(masks: bool) -> None:
    torch.manual_seed(0)
    peer = peer_of_torchvision(masks)
    ours = make(masks, reads="rgb", norm="frozen", width=64, score_threshold=0.0)
    assert set(ours.state_dict()) == set(peer.state_dict())
    ours.load_state_dict(peer.state_dict())
    images, targets = scene((48, 64), (60, 40))
    losses = []
    for model in (ours, peer):
        torch.manual_seed(5)  # of the regions that are drawn
        if model is ours:
            for _ in images:
                torch.empty(1).uniform_()  # with which torchvision chooses among sizes, of which there is one
        losses.append(model.train()(images, [dict(target) for target in targets]))
    assert losses[0].keys() == losses[1].keys()
    for name, loss in losses[1].items():
        assert losses[0][name].item() == pytest.approx(loss.item(), rel=1e-3), name
    with torch.no_grad():
        found, expected = ours.eval()(images), peer.eval()(images)
    for one, other in zip(found, expected, strict=True):
        assert len(one["labels"]) == len(other["labels"]) > 0
        assert torch.allclose(one["scores"], other["scores"], atol=1e-4)
        assert torch.equal(one["labels"], other["labels"])
        assert torch.allclose(one["boxes"], other["boxes"], atol=0.01)
        if masks:
            assert torch.allclose(one["masks"], other["masks"][:, 0], atol=1e-3)


def test_channels_get_the_maps_and_anchors_that_rgb_gets() -> None:
    images, _ = scene((48, 64), (60, 40))
    seen: dict[str, Any] = {}
    for reads in ("rgb", "dct"):
        model = make(reads=reads).eval()
        model.rpn.anchor_generator.register_forward_hook(
            lambda module, given, anchors, reads=reads: seen.update({reads: (given, anchors)})
        )
        model(images)
    (batch, maps), anchors = seen["dct"]
    (expected_batch, expected_maps), expected_anchors = seen["rgb"]
    assert [one.shape for one in maps] == [one.shape for one in expected_maps]
    assert batch.image_sizes == expected_batch.image_sizes == [(64, 85), (96, 64)]
    for one, other in zip(anchors, expected_anchors, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("masks", [False, True])
def test_a_training_step_reaches_every_weight(masks: bool) -> None:
    model = make(masks).train()
    images, targets = scene((48, 64), (60, 40), (64, 64))
    losses = model(images, targets)
    expected = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert set(losses) == expected | ({"loss_mask"} if masks else set())
    sum(losses.values()).backward()
    without = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


def test_objects_are_in_pixels_of_the_image() -> None:
    model = make(score_threshold=0.0).eval()
    images, _ = scene((48, 64), (300, 200))
    with torch.no_grad():
        found = model(images)
    for one, image in zip(found, images, strict=True):
        height, width = image.shape[1:]
        count = len(one["labels"])
        assert count > 0
        assert one["masks"].shape == (count, height, width)
        assert bool((one["boxes"] >= 0).all())
        assert bool((one["boxes"] <= torch.tensor([width, height, width, height]) + 1e-3).all())
        assert one["scores"].tolist() == sorted(one["scores"].tolist(), reverse=True)
    assert found[1]["boxes"].max() > 100  # beyond the resized image


def test_paths_and_one_tensor_are_images_too(tmp_path: Path) -> None:
    model = make(score_threshold=0.0).eval()
    pixels = (torch.rand(48, 64, 3, generator=torch.Generator().manual_seed(0)) * 255).byte()
    Image.fromarray(pixels.numpy()).save(tmp_path / "a.png")
    image = pixels.permute(2, 0, 1).float() / 255
    with torch.no_grad():
        expected = numbers(model([image]))
        for given_images in ([tmp_path / "a.png"], [str(tmp_path / "a.png")], image[None]):
            assert all(map(torch.equal, numbers(model(given_images)), expected))
    with pytest.raises(DataError, match="cannot read the image"):
        model([tmp_path / "gone.png"])


@pytest.mark.parametrize("masks", [False, True])
def test_files_restore_a_detector(masks: bool, tmp_path: Path) -> None:
    model = make(masks, score_threshold=0.0, channels=[0, 1, 8, 64, 128])
    images, _ = scene((48, 64), (60, 40))
    model.fit(images)
    tailcut.save(model, tmp_path / "a.tailcut")
    for other in (
        tailcut.load(tmp_path / "a.tailcut"),
        tailcut.load(tmp_path / "a.tailcut", into=make(masks, score_threshold=0.0, channels=[0, 1, 8, 64, 128])),
    ):
        assert type(other) is type(model)
        assert isinstance(other, Detector)
        assert other.transform.dct is not None
        assert other.transform.dct.selection == Selection.of([0, 1, 8, 64, 128])
        with torch.no_grad():
            assert all(map(torch.equal, numbers(other(images)), numbers(model.eval()(images))))


def test_files_restore_a_class_of_ones_own(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.detector = MaskRCNN(**TINY)

    torch.manual_seed(0)
    own = Own()
    tailcut.save(own, tmp_path / "own.tailcut")
    other = tailcut.load(tmp_path / "own.tailcut", into=Own())
    for name, value in own.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_statistics_are_those_of_the_enlarged_images() -> None:
    model = make(channels=24)
    images, _ = scene((48, 64), (60, 40))
    assert model.transform.dct is not None
    expected = BlockDCT(24).fit(model.transform.resized(image)[None] for image in images)
    assert model.fit(images) is model
    assert torch.allclose(model.transform.dct.mean, expected.mean)
    assert torch.allclose(model.transform.dct.std, expected.std)
    batch = model.transform(images)
    assert batch.maps[0, :, :16, :22].std() == pytest.approx(1, abs=0.3)
    with pytest.raises(DataError, match="empty"):
        model.fit([])
    with pytest.raises(ArgumentError, match="reads RGB"):
        make(reads="rgb").fit(images)


def test_a_gate_adds_its_penalty() -> None:
    model = make(channels=192, gate=True, gate_strength=0.3).train()
    images, targets = scene((48, 64), (60, 40))
    losses = model(images, targets)
    assert model.gate is not None
    expected = 0.3 * model.gate.probabilities.mean()
    assert losses["loss_gate"].item() == pytest.approx(expected.item())
    losses["loss_gate"].backward()
    assert model.gate.mix.weight.grad is not None
    assert make().gate is None
    with torch.no_grad():
        model.eval()(images)
    assert model.gate.activity.num_images == 2


def test_a_strong_penalty_closes_the_gate() -> None:
    model = make(channels=192, gate=True, gate_strength=100.0).train()
    images, targets = scene((48, 64), (60, 40))
    assert model.gate is not None
    optimizer = torch.optim.Adam(model.gate.parameters(), lr=0.1)
    for _ in range(12):
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.gate.probabilities.mean() < 0.5  # 0.88 at the start


def frozen_names(model: nn.Module) -> set[str]:
    return {name for name, value in model.named_parameters() if not value.requires_grad}


def test_frozen_stages_are_not_trained() -> None:
    free = dict(make().named_parameters())
    partly = make(frozen_stages=2)
    assert frozen_names(partly) == {
        name for name in free if name.startswith(("backbone.body.layer1.", "backbone.body.layer2."))
    }
    assert not any("conv1.mix" in name for name in frozen_names(make(gate=True, frozen_stages=4)))
    whole = make(reads="rgb", frozen_stages=1)
    assert {name.split(".")[2] for name in frozen_names(whole)} == {"conv1", "bn1", "layer1"}


def trained_backbone(**settings: Any) -> nn.Module:
    torch.manual_seed(7)
    network = replace_stem(tailcut.create_model("resnet18", width=8, num_classes=10), **settings)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.uniform_(module.running_mean, -1, 1)
    return network.eval()


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_a_backbone_comes_from_a_classification_network(norm: str) -> None:
    network = trained_backbone(channels=24)
    network.input_transform.std.fill_(5.0)  # type: ignore[union-attr, operator]
    model = make(norm=norm).eval()
    assert model.load_backbone(network) is model
    x = torch.randn(1, 24, 16, 16)
    expected = network.layer2(network.layer1(x))  # type: ignore[operator]
    assert torch.allclose(
        model.body.get_submodule("layer2")(model.body.get_submodule("layer1")(x)), expected, atol=1e-4
    )
    assert model.transform.dct is not None
    assert model.transform.dct.std.unique().tolist() == [5.0]


def test_a_gate_may_be_new_or_left_behind() -> None:
    gated, plain = trained_backbone(channels=24, gate=True), trained_backbone(channels=24)
    model = make(gate=True).load_backbone(plain)
    assert model.gate is not None
    assert torch.equal(model.body.get_parameter("layer4.1.conv2.weight"), plain.get_parameter("layer4.1.conv2.weight"))
    before = model.gate.mix.weight.clone()
    model.load_backbone(gated)
    assert not torch.equal(model.gate.mix.weight, before)
    make().load_backbone(gated)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: trained_backbone(channels=32), "the backbone reads the 32 channels .* the detector the 24 channels"),
        (lambda: tailcut.create_model("resnet18", width=8), "the backbone reads RGB, the detector the 24 channels"),
        (
            lambda: use_ycbcr(tailcut.create_model("resnet18", width=8)),
            "the backbone reads YCbCr pixels, the detector the 24 channels",
        ),
        (lambda: replace_stem(tailcut.create_model("resnet18", width=16), 24), "has no tensor .* of shape"),
        (
            lambda: trained_backbone(channels=BlockDCT(24, chroma="full")),
            "the backbone reads .* with full chroma, the detector .* with two_scale chroma: both must read the same",
        ),
        (
            lambda: trained_backbone(channels=24, strides="published"),
            r"layer2.0.conv1 has stride \(1, 1\) in the backbone, \(2, 2\) in the detector",
        ),
        (
            lambda: replace_stem(tailcut.create_model("resnet34", width=8), 24),
            "has a tensor 'layer1.2.conv1.weight', for which the detector has no place",
        ),
        (lambda: replace_stem(tailcut.create_model("resnet50", width=8), 24), "has no tensor"),
    ],
)
def test_a_backbone_that_does_not_fit(network: Any, message: str) -> None:
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ArgumentError, match=message):
        model.load_backbone(network())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnet17"}, "backbone must be 'resnet18' or .*, got 'resnet17'"),
        ({"reads": "yuv"}, "reads must be 'dct' or 'rgb', got 'yuv'"),
        ({"norm": "group"}, "norm must be 'frozen' or 'batch', got 'group'"),
        ({"reads": "rgb", "gate": True}, "a gate chooses frequency channels"),
        ({"frozen_stages": 5}, "frozen_stages must be 0 to 4, got 5"),
        ({"num_classes": 1}, "num_classes must be 2 to 65536, got 1"),
        ({"pyramid_channels": 0}, "pyramid_channels must be 1 to 65536, got 0"),
        ({"regions": 0}, "regions must be 1"),
        ({"channels": 7}, "no published selection of 7 channels"),
        ({"min_size": 100}, "min_size <= max_size"),
    ],
)
def test_arguments_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make(**changes)


def test_a_selection_is_an_argument() -> None:
    model = make(channels=triangle(24))
    assert model.transform.dct is not None
    assert model.transform.dct.selection == triangle(24)


BOX = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
LABEL = torch.tensor([1])
MASK = torch.ones(1, 48, 64, dtype=torch.bool)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (None, "needs the objects of each of the 1 images, got none"),
        ([], "of each of the 1 images, got 0"),
        ([{"boxes": BOX}], r"targets\[0\] lacks labels"),
        ([{"boxes": BOX[0], "labels": LABEL}], r"expected float boxes \(objects, 4\), got torch.float32 \(4,\)"),
        ([{"boxes": BOX.long(), "labels": LABEL}], "expected float boxes"),
        ([{"boxes": BOX.flip(1), "labels": LABEL}], r"left < right and top < bottom, got \[4.0, 3.0, 2.0, 1.0\]"),
        ([{"boxes": BOX * float("nan"), "labels": LABEL}], "left < right and top < bottom"),
        ([{"boxes": BOX, "labels": LABEL.float()}], "expected 1 labels of int64, got torch.float32"),
        ([{"boxes": BOX, "labels": LABEL + 3, "masks": MASK}], "labels must be 1 to 3, got 4 to 4"),
        ([{"boxes": BOX, "labels": LABEL - 1, "masks": MASK}], "labels must be 1 to 3, got 0 to 0"),
        ([{"boxes": BOX, "labels": LABEL}], r"expected masks \(1, 48, 64\), got none"),
        ([{"boxes": BOX, "labels": LABEL, "masks": MASK[:, 1:]}], r"expected masks \(1, 48, 64\), got \(1, 47, 64\)"),
    ],
)
def test_targets_that_do_not_fit(targets: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make().train()([torch.rand(3, 48, 64)], targets)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "at least one image"),
        (
            [torch.rand(1, 20, 20)],
            r"takes float images \(3, height, width\) .*, got torch.float32 \(1, 20, 20\)",
        ),
        ([torch.zeros(3, 20, 20, dtype=torch.uint8)], "got torch.uint8"),
        ([torch.rand(3, 0, 20)], "takes float images"),
        ([7], "takes float images .*, got int"),
    ],
)
def test_images_that_do_not_fit(images: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make().eval()(images)


@settings(max_examples=8)
@given(st.integers(1, 200), st.integers(1, 200))
def test_images_of_any_size(height: int, width: int) -> None:
    model = make(masks=False, width=4, pyramid_channels=4, head_features=4, proposals=4, channels=6).eval()
    with torch.no_grad():
        (found,) = model([torch.rand(3, height, width)])
    assert set(found) == {"boxes", "labels", "scores"}


def test_without_torchvision_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tailcut.inputs.detection.rcnn", None)
    monkeypatch.delattr("tailcut.inputs.detection.rcnn", raising=False)
    with pytest.raises(MissingExtraError, match=r"a detector needs the package 'torchvision': pip install '\.\["):
        make()


def test_a_torchvision_that_does_not_fit_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name == "tailcut.inputs.detection.rcnn":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delitem(sys.modules, "tailcut.inputs.detection.rcnn", raising=False)
    monkeypatch.delattr("tailcut.inputs.detection.rcnn", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(MissingExtraError, match="not for this build of torch: operator torchvision::nms"):
        make()


@pytest.mark.slow
def test_mask_rcnn_of_the_paper() -> None:
    torch.manual_seed(0)
    model = mask_rcnn("resnet50", 64)
    assert sum(value.numel() for value in model.parameters()) == pytest.approx(44.4e6, rel=0.01)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 480, 640, generator=generator)
    masks = torch.zeros(1, 480, 640, dtype=torch.bool)
    masks[:, 100:300, 100:400] = True
    target = {"boxes": torch.tensor([[100.0, 100.0, 400.0, 300.0]]), "labels": torch.tensor([18]), "masks": masks}
    model.fit([image])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    losses = model.train()([image], [target])
    loss = torch.stack(list(losses.values())).sum()
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    batch = model.transform([image])
    assert batch.maps.shape == (1, 64, 200, 272)  # the image at 1600 x 2132
    with torch.no_grad():
        (found,) = model.eval()([image])
    assert set(found) == {"boxes", "labels", "scores", "masks"}


@pytest.mark.parametrize("offset", [-0.1, 1.0])
def test_wrong_anchor_offset(offset: float) -> None:
    with pytest.raises(ArgumentError, match="anchor_offset must be from 0 up to 1"):
        make(anchor_offset=offset)


@pytest.mark.parametrize("normalize", [False, True, "cifar10"])
def test_rgb_must_be_normalised_alike(normalize: bool | str) -> None:
    torch.manual_seed(0)
    network = tailcut.create_model("resnet18", width=8, num_classes=10, normalize=normalize)
    if normalize is True:
        make(reads="rgb").load_backbone(network)
        return
    with pytest.raises(
        ArgumentError, match=r"normalises RGB as for ImageNet, the backbone takes pixels.*normalize = true"
    ):
        make(reads="rgb").load_backbone(network)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_must_fit(dtype: torch.dtype) -> None:
    model, image = make(reads="rgb").eval(), torch.rand(3, 64, 96)
    with pytest.raises(ArgumentError, match=f"the detector is in {dtype}, the image in torch.float32"):
        model.to(dtype)([image])
    if dtype == torch.float64:
        model([image.double()])
