"""What every family promises: counts, shapes, gradients, the meta device, tracing, files."""

import hashlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.format.networks import randomize, same_bits
from tests.models.by_hand import names_and_shapes, on_meta
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import tailcut
from tailcut.counting import count_macs, count_parameters
from tailcut.structure import base_of, create_model, family, model_names

CIFAR = (2, 3, 32, 32)
TINY = (2, 3, 16, 16)


@dataclass(frozen=True)
class Case:
    """A family: a small member of it with its input and outputs, and the default member's counts."""

    parameters: int
    macs: int
    arguments: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[int, ...] = CIFAR
    outputs: tuple[tuple[int, ...], ...] = ((2, 10),)


SMALL_RESNET = {"num_classes": 10, "width": 2, "small_input": True}
SMALL_VGG = {"num_classes": 10, "width": 2, "hidden": 5}

CASES = {
    "resnet18": Case(11_689_512, 1_814_073_344, SMALL_RESNET, TINY),
    "resnet34": Case(21_797_672, 3_663_761_408, SMALL_RESNET, TINY),
    "resnet50": Case(25_557_032, 4_089_184_256, SMALL_RESNET, TINY),
    "resnet101": Case(44_549_160, 7_801_405_440, SMALL_RESNET, TINY),
    "resnet20": Case(269_722, 40_551_040, {"width": 3, "normalize": True}, TINY),
    "resnet56": Case(853_018, 125_485_696, {"width": 2}),
    "resnet110": Case(1_727_962, 252_887_680, {"width": 1}),
    "vgg16": Case(138_357_544, 15_470_264_320, SMALL_VGG),
    "vgg16_bn": Case(138_365_992, 15_470_264_320, SMALL_VGG),
    "vgg16_bn_cifar": Case(14_991_946, 313_463_808, {"width": 2, "hidden": 5}),
    "vgg19_bn_cifar": Case(20_040_522, 398_136_320, {"width": 2}),
    "googlenet_cifar": Case(6_166_250, 1_521_756_160, {"width": 4}, TINY),
    "densenet40": Case(1_059_298, 282_917_328, {"growth": 2}, TINY),
    "mobilenetv1": Case(4_231_976, 568_740_352, {"num_classes": 10, "width": 2}),
    "mobilenetv1_cifar": Case(3_217_226, 46_354_432, {"width": 2}),
    "mobilenetv2": Case(3_504_872, 300_774_272, {"num_classes": 10, "width_multiplier": 0.1}, inputs=CIFAR),
    "mobilenetv2_cifar": Case(2_236_682, 87_976_448, {"width_multiplier": 0.1}, TINY),
    "alexnet": Case(61_100_840, 714_188_480, SMALL_VGG | {"resize": 64}),
    "vit": Case(9_523_722, 640_953_344, {"width": 12, "num_heads": 3, "mlp_width": 8, "depth": 2}),
    "dcgan_generator": Case(3_574_656, 102_531_072, {"width": 2}, (2, 100), ((2, 1, 64, 64),)),
    "dcgan_discriminator": Case(2_763_520, 101_720_064, {"width": 2}, (2, 1, 64, 64), ((2, 1),)),
    "vae": Case(973_624, 971_200, {"hidden": 9}, (2, 1, 28, 28), ((2, 1, 28, 28), (2, 20), (2, 20))),
    "lenet300": Case(266_610, 266_200, {}, (2, 1, 28, 28)),
    "lenet5": Case(431_080, 2_293_000, {}, (2, 1, 28, 28)),
    "unet": Case(31_043_586, 752_680_960, {"widths": (2, 3)}, (2, 3, 16, 16), ((2, 2, 16, 16),)),
}
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU)
# They are older than the rule that activations are modules, each its own; the UNet's forward also looks at shapes.
FUNCTIONAL = ("lenet300", "lenet5", "unet")

# Other sizes of the same families: only what costs no time is tested of them.
REPEATED = ("resnet34", "resnet101", "resnet56", "resnet110", "vgg16", "vgg19_bn_cifar", "mobilenetv2")
MEMBERS = [name for name in CASES if name not in REPEATED]

every_family = pytest.mark.parametrize("name", CASES)
members = pytest.mark.parametrize("name", MEMBERS)
newer_members = pytest.mark.parametrize("name", [name for name in MEMBERS if name not in FUNCTIONAL])


def small(name: str, seed: int = 0) -> nn.Module:
    """A small member of the family."""
    torch.manual_seed(seed)
    return create_model(name, **CASES[name].arguments)


def run(model: nn.Module, name: str) -> tuple[Tensor, ...]:
    x = torch.rand(CASES[name].inputs, generator=torch.Generator().manual_seed(1))
    outputs = model(x)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def test_every_family_is_here() -> None:
    ours = {name for name in model_names() if family(name).build.__module__.startswith("tailcut.models.")}
    assert ours == set(CASES)


@every_family
def test_counts_of_the_default(name: str) -> None:
    model = on_meta(family(name).build).eval()
    assert count_parameters(model) == sum(parameter.numel() for parameter in model.parameters())
    assert count_parameters(model) == CASES[name].parameters
    example = torch.empty(family(name).example_shape())
    counted = count_macs(model, example)
    with torch.no_grad(), FlopCounterMode(display=False) as peer:
        model(example.to("meta"))
    assert 2 * counted.total == peer.get_total_flops()
    assert counted.total == sum(counted.layers.values()) == CASES[name].macs


@members
def test_output_and_gradients(name: str) -> None:
    model = small(name)
    base = base_of(model)
    assert base is not None
    assert base.name == name
    outputs = run(model, name)
    assert tuple(tuple(output.shape) for output in outputs) == CASES[name].outputs
    sum((output.square().sum() for output in outputs), torch.zeros(())).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(torch.isfinite(parameter.grad).all()), parameter_name
    assert any(bool(parameter.grad.abs().max() > 0) for parameter in model.parameters() if parameter.grad is not None)


@every_family
def test_example_shape_fits(name: str) -> None:
    arguments = CASES[name].arguments
    with torch.device("meta"):
        outputs = create_model(name, **arguments).eval()(torch.empty(family(name).example_shape(**arguments)))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert all(output.shape[0] == 1 for output in outputs)


@every_family
def test_the_meta_device_builds_the_same(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, **CASES[name].arguments)
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert names_and_shapes(model) == names_and_shapes(small(name))
    stored = {*dict(model.named_parameters()), *dict(model.named_buffers())}
    assert stored == set(model.state_dict()), "nothing is lost on the meta device"


@members
def test_one_seed_one_network(name: str) -> None:
    first, same, other = (list(small(name, seed).parameters()) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@newer_members
def test_traceable(name: str) -> None:
    model = small(name).eval()
    traced = torch.fx.symbolic_trace(model)
    for output, expected in zip(run(traced, name), run(model, name), strict=True):
        assert torch.equal(output, expected)


@newer_members
def test_every_activation_is_a_module_of_its_own_and_not_in_place(name: str) -> None:
    model = small(name).eval()
    calls: dict[str, int] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, ACTIVATIONS):
            assert not getattr(module, "inplace", False), path

            def note(module: nn.Module, args: Any, output: Any, path: str = path) -> None:
                calls[path] = calls.get(path, 0) + 1

            module.register_forward_hook(note)
    run(model, name)
    assert calls
    assert set(calls.values()) == {1}


@members
def test_file_round_trip(name: str, tmp_path: Path) -> None:
    model = randomize(small(name), 1).eval()
    tailcut.save(model, tmp_path / "a.tailcut")
    loaded = tailcut.load(tmp_path / "a.tailcut")
    assert type(loaded) is type(model)
    base = base_of(loaded)
    assert base is not None
    assert base.name == name
    assert base.arguments.items() <= CASES[name].arguments.items()
    expected = model.state_dict()
    assert list(loaded.state_dict()) == list(expected)
    assert all(same_bits(tensor, expected[key]) for key, tensor in loaded.state_dict().items())
    assert all(map(same_bits, run(loaded, name), run(model, name)))


@pytest.mark.parametrize("name", ["resnet20", "alexnet", "vit", "dcgan_generator", "vae"])
def test_exportable_with_any_batch_size(name: str) -> None:
    """Those with layers that the others have not."""
    model = randomize(small(name), 0).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.rand(CASES[name].inputs),), dynamic_shapes=({0: batch},))
    x = torch.rand(3, *CASES[name].inputs[1:])
    outputs, expected = program.module()(x), model(x)
    torch.testing.assert_close(outputs, expected)


def test_normalisation_is_that_of_torchvisions_checkpoints() -> None:
    plain = create_model("resnet18", **SMALL_RESNET).eval()
    normalising = create_model("resnet18", **SMALL_RESNET, normalize=True).eval()
    normalising.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 32, 32)
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(normalising(images), plain((images - mean[:, None, None]) / spread[:, None, None]))
    assert "normalize" not in dict(plain.named_modules())  # whose order files rely on


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18 resnet34 resnet50 resnet101", "num_classes width small_input normalize"),
        ("resnet20 resnet56 resnet110", "num_classes width normalize channels"),
        ("vgg16 vgg16_bn", "num_classes width hidden dropout"),
        ("vgg16_bn_cifar", "num_classes width hidden bias normalize"),
        ("vgg19_bn_cifar", "num_classes width bias normalize"),
        ("googlenet_cifar", "num_classes width normalize"),
        ("densenet40", "num_classes growth normalize"),
        ("mobilenetv1 mobilenetv1_cifar", "num_classes width normalize"),
        ("mobilenetv2 mobilenetv2_cifar", "num_classes width_multiplier dropout normalize"),
        ("alexnet", "num_classes width hidden dropout resize"),
        ("vit", "image_size patch_size width depth num_heads mlp_width num_classes dropout patch_dropout"),
        ("dcgan_generator", "latent_size width out_channels"),
        ("dcgan_discriminator", "width in_channels"),
        ("vae", "latent_size hidden bias convolutional"),
    ],
)
def test_the_order_of_arguments_is_part_of_the_format(name: str, arguments: str) -> None:
    for one in name.split():
        assert list(family(one).defaults) == arguments.split()


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("resnet18", "84fb10d9c6905a1c"),
        ("resnet34", "28f9096d51307499"),
        ("resnet50", "d7e4f8bb0a536344"),
        ("resnet101", "02c0f34f4842751f"),
        ("vgg16", "35c4623e0cd4a39d"),
        ("vgg16_bn", "347371586a8ea365"),
        ("alexnet", "9c198ebdae1863e4"),
        ("mobilenetv2", "37bbbce8932fd0c4"),
    ],
)
def test_torchvisions_checkpoints_fit(name: str, digest: str) -> None:
    """The digest of the lines "NAME SHAPE" of the state_dict that torchvision 0.28.0 gives its network."""
    lines = "\n".join(f"{key} {shape}" for key, shape in names_and_shapes(on_meta(family(name).build)))
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == digest


def test_every_file_is_imported_with_the_package() -> None:
    """A new network is one file: nothing else names it."""
    files = {path.stem for path in Path(tailcut.models.__file__).parent.glob("*.py")} - {"__init__"}
    assert files <= {name.rpartition(".")[2] for name in sys.modules if name.startswith("tailcut.models.")}
