import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import torchvision_operators
from tests.inputs import networks
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d

from tailcut import models as models
from tailcut.errors import ArgumentError, StructureError
from tailcut.format import load, save
from tailcut.inputs import convert_patch_embedding, transplant_stem, use_ycbcr
from tailcut.inputs.selection.gate import FrequencyGate
from tailcut.inputs.selection.selection import triangle
from tailcut.inputs.stem.edit import ReplaceStemEdit, transform_of
from tailcut.inputs.stem.replace import describe_stem, example_of, replace_stem
from tailcut.inputs.transform.block_dct import BlockDCT
from tailcut.structure import create_model, example_shape, record_of
from tailcut.weights import regularize

operators = torchvision_operators.supplied  # torchvision imports with them
SMALL = {"num_classes": 5, "width": 4}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def lively(model: nn.Module) -> nn.Module:
    """Give the statistics of normalisations numbers of their own (changes the model), so that no two layers agree."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and "input_transform" not in name:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.1)
    return model


def normalized(x: Tensor, layer: Any) -> Tensor:
    return batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)


def test_resnet_reads_channels_where_layer1_read_maps() -> None:
    model = create_model("resnet18", num_classes=5, width=24)
    before = state(model)
    assert replace_stem(model, 24) is model
    kept = {name: tensor for name, tensor in before.items() if not name.startswith(("conv1.", "bn1."))}
    after = state(model)
    assert {name for name in after if not name.startswith("input_transform")} == set(kept)
    assert all(torch.equal(after[name], tensor) for name, tensor in kept.items())
    x = torch.randn(2, 24, 28, 28)
    with torch.no_grad():
        maps = model.eval().get_submodule("layer1")(x)
        for name in ("layer2", "layer3", "layer4"):
            maps = model.get_submodule(name)(maps)
        expected = model.get_submodule("fc")(maps.mean(dim=(2, 3)))
        torch.testing.assert_close(model(x), expected)


def test_an_identity_shortcut_becomes_a_projection() -> None:
    model = lively(replace_stem(create_model("resnet18", **SMALL), 24)).eval()
    block = model.get_submodule("layer1.0")
    parts: Any = dict(block.named_modules())
    assert parts["conv1"].weight.shape == (4, 24, 3, 3)
    assert parts["downsample.0"].weight.shape == (4, 24, 1, 1)
    x = torch.randn(2, 24, 6, 6)
    y = normalized(conv2d(x, parts["conv1"].weight, padding=1), parts["bn1"]).clamp(min=0)
    y = normalized(conv2d(y, parts["conv2"].weight, padding=1), parts["bn2"])
    shortcut = normalized(conv2d(x, parts["downsample.0"].weight), parts["downsample.1"])
    with torch.no_grad():
        torch.testing.assert_close(block(x), (y + shortcut).clamp(min=0))


@pytest.mark.parametrize(("channels", "changed"), [(64, set()), (24, {24}), (192, {192})])
def test_bottleneck_takes_64_channels_unchanged_and_others_by_two_convolutions(
    channels: int, changed: set[int]
) -> None:
    with torch.device("meta"):
        model = create_model("resnet50")
    replace_stem(model, channels)
    edit: Any = record_of(model).edits[0]
    assert {layer.in_channels for layer in edit.resized} == changed
    assert [layer.name for layer in edit.resized] == ["layer1.0.conv1", "layer1.0.downsample.0"] * bool(changed)
    assert edit.projections == ()


@pytest.mark.parametrize(
    ("channels", "strides", "giga_macs"),
    [(24, "paper", 3.93), (64, "paper", 3.97), (192, "paper", 4.10), (64, "published", 13.57)],
)
def test_macs_of_resnet50_are_those_of_the_papers_networks(channels: int, strides: str, giga_macs: float) -> None:
    with torch.device("meta"):
        model = replace_stem(create_model("resnet50"), channels, strides=strides)
    report = describe_stem(model, image_size=448)
    assert report.map_size == (56, 56)
    assert report.macs / 1e9 == pytest.approx(giga_macs, abs=0.006)
    assert describe_stem(model, image_size=(445, 450)).map_size == (56, 57)


def test_macs_of_mobilenet_are_those_of_the_paper_network() -> None:
    with torch.device("meta"):
        model = replace_stem(create_model("mobilenetv2"), 24)
    report = describe_stem(model, image_size=896)
    assert report.map_size == (112, 112)
    stem = 112 * 112 * 3 * 32 * 9
    narrower = 112 * 112 * 8 * (9 + 16)  # the first block reads 24 instead of 32: depthwise 3 x 3, then 1 x 1 to 16
    assert report.macs == 300_774_272 - stem - narrower
    assert report.removed == ("features.0",)


def test_depthwise_convolutions_become_as_wide_as_what_enters() -> None:
    model = create_model("mobilenetv2", num_classes=3, width_multiplier=0.25)
    replace_stem(model, 12)
    first: Any = model.get_submodule("features.1.conv")
    assert (first[0][0].in_channels, first[0][0].out_channels, first[0][0].groups) == (12, 12, 12)
    assert first[0][0].weight.shape == (12, 1, 3, 3)
    assert first[0][1].running_mean.shape == (12,)
    assert first[1].weight.shape == (8, 12, 1, 1)
    assert model(torch.randn(2, 12, 28, 28)).shape == (2, 3)


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_vgg_keeps_what_follows_the_second_pooling(name: str) -> None:
    model = create_model(name, num_classes=3, width=2, hidden=5)
    features: Any = model.get_submodule("features")
    pools = [place for place, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    rgb_maps = features[: pools[1] + 1](torch.zeros(1, 3, 224, 224))
    replace_stem(model, 24)
    assert all(isinstance(layer, nn.Identity) for layer in features[: pools[1] + 1])
    assert features[pools[1] + 1].in_channels == 24
    report = describe_stem(model, image_size=448)
    assert report.map_size == tuple(rgb_maps.shape[2:])
    assert f"features.0 to features.{pools[1]}" in str(report)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "vgg11_bn"])
def test_torchvision_networks_are_known(name: str) -> None:
    torchvision = pytest.importorskip("torchvision.models", reason="needs the extra detection")
    build: Callable[..., nn.Module] = getattr(torchvision, name)
    sizes: dict[str, dict[str, Any]] = {"resnet50": {"width_per_group": 4}, "mobilenet_v2": {"width_mult": 0.25}}
    model = build(num_classes=3, **sizes.get(name, {})) if name != "vgg11_bn" else _small_vgg(torchvision)
    replace_stem(model, 24, gate=True)
    x = torch.randn(2, 24, 28, 28)
    assert model(x).shape == (2, 3)
    assert model.eval()(x[:1]).shape == (1, 3)


def _small_vgg(torchvision: Any) -> nn.Module:
    layers = torchvision.vgg.make_layers([4, "M", 4, "M", 8, 8, "M", 8, "M", 8, "M"], batch_norm=True)
    model: nn.Module = torchvision.VGG(layers, num_classes=3, init_weights=False)
    model.classifier = nn.Sequential(nn.Linear(8 * 49, 3))
    return model


# Networks of a user's own.


def test_a_sequence_keeps_the_transform_inside() -> None:
    model = networks.sequence()
    replace_stem(model, 6, first="2", example_input=torch.rand(1, 3, 32, 32))
    assert transform_of(model) is model[0].input_transform
    x = torch.randn(2, 6, 8, 8)
    torch.testing.assert_close(model(x), model[6](model[3](model[2](x)).mean(dim=(2, 3))))
    with pytest.raises(StructureError, match=r"nothing runs before 0.*nn.Identity"):
        replace_stem(networks.sequence(), 6, first="0", example_input=torch.rand(1, 3, 32, 32))


def test_what_reads_through_functions_is_rebuilt_too() -> None:
    model = networks.PreActivation()
    replace_stem(model, 24, first="norm", example_input=torch.rand(1, 3, 16, 16))
    assert isinstance(model.stem[0], nn.Identity)
    assert (model.norm.num_channels, model.norm.weight.shape) == (24, (24,))
    assert (model.depthwise.in_channels, model.depthwise.out_channels, model.depthwise.groups) == (24, 48, 24)
    assert model.pointwise.weight.shape == (5, 48, 1, 1)
    assert model(torch.randn(2, 24, 4, 4)).shape == (2, 4)
    model = networks.PreActivation()
    replace_stem(model, 24, first="stem.1", example_input=torch.rand(1, 3, 16, 16))
    assert model.stem[1].weight.shape == (24,)


def test_a_whole_chain_of_concatenations_follows_the_width() -> None:
    model = create_model("densenet40", num_classes=3, growth=2)
    replace_stem(model, 24, first="dense1")
    assert model(torch.randn(2, 24, 8, 8)).shape == (2, 3)
    assert model.get_submodule("trans1.conv1").get_parameter("weight").shape[:2] == (28, 48)


def test_a_shortcut_of_mobilenet_is_switched_off_where_the_width_changes() -> None:
    model = create_model("mobilenetv2", width_multiplier=0.25, num_classes=3)
    blocks: Any = model.get_submodule("features")
    assert blocks[1].has_shortcut
    replace_stem(model, 12)
    assert not blocks[1].has_shortcut
    x = torch.randn(1, 12, 8, 8)
    torch.testing.assert_close(blocks.eval()[1](x), blocks[1].conv(x))
    model = create_model("mobilenetv2", width_multiplier=0.25, num_classes=3)
    replace_stem(model, [0, 1, 2, 3, 4, 5, 6, 7])
    assert model.get_submodule("features.1").has_shortcut


def test_an_empty_shortcut_of_a_block_is_filled() -> None:
    model = networks.Residual(has_attribute=True)
    replace_stem(model, 12, first="block", example_input=torch.rand(1, 3, 8, 8))
    assert model.block.shortcut[0].weight.shape == (6, 12, 1, 1)
    assert model(torch.randn(2, 12, 4, 4)).shape == (2, 6)


def test_the_part_of_a_detector() -> None:
    model = networks.Detector()
    replace_stem(model, 24, part="backbone", first="layer1", gate=0.5, example_input=torch.rand(1, 3, 32, 32))
    assert transform_of(model) is model.input_transform
    assert isinstance(model.backbone["conv1"], FrequencyGate)
    assert model.backbone["conv1"].temperature == 0.5
    x = torch.randn(24, 4, 4)
    assert model([x, x]).shape == (2, 2)
    fresh = networks.Detector()
    (edit,) = record_of(model).edits
    edit.check(fresh)
    edit.apply(fresh)
    assert [(name, tensor.shape) for name, tensor in fresh.state_dict().items()] == [
        (name, tensor.shape) for name, tensor in model.state_dict().items()
    ]


def test_a_backbone_that_runs_its_children_keeps_the_transform_inside() -> None:
    model = networks.AllInOrder()
    replace_stem(model, 24, first="layer1", example_input=torch.rand(1, 3, 32, 32))
    assert set(model(torch.randn(1, 24, 4, 4))) == {"conv1", "layer1", "layer2"}
    assert transform_of(model) is model["conv1"].input_transform


@pytest.mark.parametrize(
    ("build", "first", "message"),
    [
        (networks.Functional, "body", "does more than call modules"),
        (networks.SharedReLU, "body", "relu runs in the stem and again later"),
        (lambda: networks.Residual(has_attribute=False), "block", "does not run through the network.*size of tensor"),
        (networks.PreActivation, "pointwise", "pointwise the forward does more than call modules"),
    ],
)
def test_what_cannot_be_replaced_is_left_as_it_was(build: Callable[[], Any], first: str, message: str) -> None:
    model = build()
    before, modules = state(model), list(map(str, model.modules()))
    with pytest.raises(StructureError, match=message):
        replace_stem(model, 24, first=first, example_input=torch.rand(1, 3, 16, 16))
    after = state(model)
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert list(map(str, model.modules())) == modules
    assert record_of(model).edits == []


def test_groups_that_do_not_divide_the_channels() -> None:
    model = networks.PreActivation()
    model.norm = nn.GroupNorm(3, 6)
    with pytest.raises(StructureError, match="norm has 3 groups, which do not divide 64"):
        replace_stem(model, 64, first="norm", example_input=torch.rand(1, 3, 16, 16))


def test_bad_arguments() -> None:
    model = create_model("resnet20", width=2)
    with pytest.raises(ArgumentError, match="first: the model has no module 'layer9'"):
        replace_stem(model, 24, first="layer9")
    with pytest.raises(ArgumentError, match="cannot be the first"):
        replace_stem(model, 24, first="")
    with pytest.raises(ArgumentError, match="part: the model has no module 'x'"):
        replace_stem(model, 24, part="x")
    with pytest.raises(ArgumentError, match="name the first module"):
        replace_stem(networks.Functional(), 24)
    with pytest.raises(ArgumentError, match="temperature above 0"):
        replace_stem(model, 24, gate=-1.0)
    with pytest.raises(ArgumentError, match="no published selection of 25"):
        replace_stem(model, 25)
    with pytest.raises(StructureError, match="example input of shape"):
        replace_stem(model, 24, example_input=torch.rand(1, 4, 8, 8))
    unused = networks.Functional()
    unused.more = nn.Conv2d(3, 3, 1)
    with pytest.raises(ArgumentError, match="first: more does not run"):
        replace_stem(unused, 24, first="more", example_input=torch.rand(1, 3, 8, 8))
    with pytest.raises(StructureError, match="fc must be called with one tensor"):
        replace_stem(create_model("resnet18", **SMALL), 24, first="fc")
    with pytest.raises(StructureError, match="reads pixels"):
        describe_stem(model)
    model.input_transform = nn.Identity()
    with pytest.raises(StructureError, match="attribute 'input_transform'"):
        replace_stem(model, 24)


def test_the_order_of_edits() -> None:
    model = create_model("resnet20", width=2)
    regularize(model, keep_ratio=0.5)
    with pytest.raises(StructureError, match="replace the stem first, then regularise"):
        replace_stem(model, 24)
    model = replace_stem(create_model("resnet20", width=2), 24)
    with pytest.raises(StructureError, match="replaced already"):
        replace_stem(model, 24)


def test_new_weights_start_as_the_family_starts_its_own_and_the_transform_is_copied() -> None:
    transform = BlockDCT(triangle(64), chroma="full", padding="error")
    transform.mean += 3
    transform.std *= 7
    torch.manual_seed(3)
    model = replace_stem(create_model("resnet50", width=32), transform)
    own = transform_of(model)
    assert own is not None
    assert own is not transform
    assert (own.selection, own.chroma, own.padding) == (transform.selection, "full", "error")
    assert torch.equal(own.mean, transform.mean)
    assert torch.equal(own.std, transform.std)
    convolution = model.get_submodule("layer1.0.downsample.0")
    weight = convolution.get_parameter("weight")  # He et al., fan out: variance 2 / (out_channels 1 1)
    assert weight.shape == (128, 64, 1, 1)
    assert float(weight.detach().std()) == pytest.approx((2 / 128) ** 0.5, rel=0.03)
    own_network = networks.Functional()
    own_network.norm = nn.Identity()  # type: ignore[assignment]
    replaced = copy.deepcopy(own_network)
    replace_stem(replaced, 6, first="conv", example_input=torch.rand(1, 3, 8, 8))
    values = replaced.conv.weight.detach()  # PyTorch's own start: uniform up to 1 / sqrt(inputs)
    assert values.shape == (6, 6, 3, 3)
    assert 0.9 * 54**-0.5 < float(values.abs().max()) <= 54**-0.5


def test_two_networks_in_a_row_start_with_different_numbers() -> None:
    torch.manual_seed(0)
    models = [replace_stem(create_model("resnet20", width=2), 24) for _ in range(2)]
    first, second = (model.get_submodule("layer1.0.conv1").get_parameter("weight") for model in models)
    assert not torch.equal(first, second)


def test_device_type_mode_and_copies() -> None:
    model = create_model("resnet20", width=2, num_classes=3).half().eval()
    replace_stem(model, 24, gate=True)
    assert not any(module.training for module in model.modules())
    own = transform_of(model)
    assert own is not None
    assert own.mean.dtype == torch.float16
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert model(own(images)).dtype == torch.float16  # what the transform gives is what the network takes
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    model = model.double()
    x = torch.randn(3, 24, 4, 4, dtype=torch.float64)
    expected = model(x)
    again = copy.deepcopy(model.train())
    again.train()(x).sum().backward()
    torch.testing.assert_close(copy.deepcopy(model.eval())(x), expected)
    with torch.device("meta"):
        ghost = create_model("resnet20", width=2, num_classes=3)
    replace_stem(ghost, 24, gate=True)
    assert all(tensor.is_meta for tensor in ghost.state_dict().values())
    assert [tensor.shape for tensor in ghost.state_dict().values()] == [t.shape for t in model.state_dict().values()]


# Files.


def filled(model: nn.Module) -> nn.Module:
    own = transform_of(lively(model).eval())
    assert own is not None
    own.mean.copy_(torch.linspace(-5, 5, own.num_channels))
    own.std.copy_(torch.linspace(1, 9, own.num_channels))
    return model


def assert_same(one: nn.Module, other: nn.Module, shape: tuple[int, ...]) -> None:
    assert record_of(one).edits == record_of(other).edits
    assert str(one) == str(other)
    pairs = zip(state(one).items(), state(other).items(), strict=True)
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)
    x = torch.randn(shape)
    with torch.no_grad():
        assert torch.equal(one(x), other(x))
    left, right = transform_of(one), transform_of(other)
    assert left is not None
    assert right is not None
    image = torch.rand(3, 20, 26)
    assert torch.equal(left(image), right(image))


@pytest.mark.parametrize(
    ("name", "arguments", "channels", "options"),
    [
        ("resnet18", SMALL, 24, {"strides": "published"}),
        ("resnet50", SMALL, BlockDCT(triangle(30), chroma="full"), {"gate": 0.7}),
        ("mobilenetv2", {"width_multiplier": 0.25, "num_classes": 5}, 12, {}),
        ("vgg16_bn", {"width": 2, "hidden": 3, "num_classes": 5}, [0, 64, 128], {"strides": {"features.14": 2}}),
        ("resnet20", {"width": 2, "normalize": True}, 48, {}),
    ],
)
def test_registered_networks_are_restored_from_the_file_alone(
    name: str, arguments: dict[str, Any], channels: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    model = filled(replace_stem(create_model(name, **arguments), channels, **options))
    path = tmp_path / "a.tailcut"
    save(model, path)
    random = torch.random.get_rng_state()
    restored = load(path)
    assert torch.equal(torch.random.get_rng_state(), random)
    own = transform_of(model)
    assert own is not None
    assert_same(model, restored, (2, own.num_channels, 32, 32))
    save(restored, tmp_path / "b.tailcut")
    assert (tmp_path / "b.tailcut").read_bytes() == path.read_bytes()
    assert_same(model, load(tmp_path / "b.tailcut"), (1, own.num_channels, 32, 32))


@pytest.mark.parametrize(
    ("build", "first", "options"),
    [
        (networks.sequence, "2", {"gate": True}),
        (networks.PreActivation, "norm", {"strides": {"depthwise": 2}}),
        (lambda: networks.Residual(has_attribute=True), "block", {}),
    ],
)
def test_own_networks_are_restored(
    build: Callable[[], nn.Module], first: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model = build()
    replace_stem(model, 24, first=first, example_input=torch.rand(1, 3, 16, 16), **options)
    save(filled(model), tmp_path / "a.tailcut")
    fresh = build()
    assert load(tmp_path / "a.tailcut", into=fresh) is fresh
    assert_same(model, fresh, (2, 24, 6, 6))


def test_replaced_then_regularised_then_saved(tmp_path: Path) -> None:
    model = filled(replace_stem(create_model("resnet20", width=4), 24, gate=True))
    regularize(model, keep_ratio=0.4, exclude="normalize.*")
    save(model, tmp_path / "a.tailcut")
    restored = load(tmp_path / "a.tailcut")
    assert [edit.kind for edit in record_of(restored).edits] == ["replace_stem", "regularize"]
    x = torch.randn(2, 24, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(restored(x), model(x))
    save(restored, tmp_path / "b.tailcut")
    assert (tmp_path / "b.tailcut").read_bytes() == (tmp_path / "a.tailcut").read_bytes()


def test_a_process_that_only_imports_tailcut_loads_the_file(tmp_path: Path) -> None:
    save(filled(replace_stem(create_model("resnet20", width=2), 24)), tmp_path / "a.tailcut")
    program = "import sys, tailcut; print(type(tailcut.load(sys.argv[1]).input_transform).__name__)"
    command = [sys.executable, "-c", program, str(tmp_path / "a.tailcut")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("BlockDCT", "")


def test_the_report_is_for_people_and_machines() -> None:
    model = replace_stem(
        create_model("resnet18", **SMALL), 24, gate=True, strides={"layer3.0.conv1": 1, "layer3.0.downsample.0": 1}
    )
    report = describe_stem(model, image_size=64)
    assert report.to_dict()["removed"] == ["conv1", "bn1", "relu", "maxpool"]
    assert report.changed[:2] == ("layer1.0.conv1 (24 to 4)", "layer1.0.downsample (24 to 4)")
    assert "gated" in str(report)
    gate = next(module for module in model.modules() if isinstance(module, FrequencyGate))
    assert gate.activity.num_images == 0


def test_the_example_of_a_network_that_reads_channels() -> None:
    for size, expected in ((None, (1, 24, 56, 56)), (224, (1, 24, 28, 28)), ((100, 64), (1, 24, 13, 8))):
        model = replace_stem(create_model("resnet18", **SMALL), 24, image_size=size)
        (edit,) = record_of(model).edits
        assert isinstance(edit, ReplaceStemEdit)
        assert edit.example_shape((1, 3, 224, 224)) == expected
        assert describe_stem(model).map_size == expected[2:]
    for wrong in (0, (3,), (3, 4, 5), 8193, (1.5, 2)):
        with pytest.raises(ArgumentError, match="side of an image"):
            replace_stem(create_model("resnet18", **SMALL), 24, image_size=wrong)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="side of an image"):
            describe_stem(model, image_size=wrong)  # type: ignore[arg-type]


def test_example_of_own_networks_is_a_photo() -> None:
    assert example_of(nn.Linear(3, 2).double()).shape == (1, 3, 224, 224)
    assert example_of(nn.Linear(3, 2).double()).dtype == torch.float64
    assert example_of(create_model("resnet20")).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda net: torch.compile(net, backend="eager")])
def test_wrappers_are_refused(wrap: Any) -> None:
    net = wrap(nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.Conv2d(16, 8, 3)))
    transform = BlockDCT(24)
    for change in (
        lambda: replace_stem(net, transform, first="1"),
        lambda: transplant_stem(net, transform, [torch.rand(2, 3, 64, 64)]),
        lambda: use_ycbcr(net),
        lambda: convert_patch_embedding(net, name="0"),
    ):
        with pytest.raises(ArgumentError, match="is a wrapper: change the input of the network itself"):
            change()


def test_the_example_is_that_of_the_network_as_it_is_now() -> None:
    model = create_model("resnet18")
    replace_stem(model, BlockDCT(24))
    shape = example_shape(model)
    assert shape is not None
    assert shape[1] == 24
