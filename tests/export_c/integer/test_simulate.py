"""Networks in integers: the same bits in C and in Python, close to float32, without a float and without an overflow."""

import copy
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.export_c.compiling import C_FOLDER, SANITIZED, compile_c, optimized
from tests.export_c.integers import check_same
from tests.export_c.lowering.many import With
from tests.export_c.networks import MADE, TRUNCATIONS, enliven, lively, truncated
from torch import Tensor, nn
from torch.nn import functional

import tailcut
from tailcut.errors import ArgumentError, StructureError
from tailcut.export_c import IntegerNetwork, export_c, integer_program_of
from tailcut.export_c.integer.arithmetic import cosines, packed, rounded, scaled, shifted
from tailcut.export_c.integer.memory import plan
from tailcut.export_c.integer.simulate import simulate
from tailcut.export_c.integer.tables import SIZES
from tailcut.export_c.integer.writing import write_program
from tailcut.export_c.integer_network import to_integers

# One of each architecture and kind of file.
ZOO = ("cifar10-resnet20-combined", "lenet300-2816", "lenet5-1500", "lenet5-776", "resnet18-9900", "vgg16-16384")
COVERED = (
    "activated",
    "enlarged",
    "flat",
    "grouped",
    "instance norms",
    "pools",
    "pooled outputs",
    "repeated",
    "sequence",
    "spectrogram",
    "transposed",
)


@pytest.mark.parametrize("name", ZOO)
def test_networks_of_the_zoo(name: str, tmp_path: Path) -> None:
    report = check_same(tailcut.load(f"zoo:{name}"), tmp_path, options=optimized(name))
    assert report.arithmetic == "integer"
    assert (report.input_bytes, report.output_bytes) == (2 * math.prod(report.input_shape), 20)


@pytest.mark.parametrize("name", COVERED)
@pytest.mark.parametrize("settings", TRUNCATIONS.values(), ids=TRUNCATIONS)
def test_every_operation(name: str, settings: dict[str, object], tmp_path: Path) -> None:
    model, shape = truncated(name, **settings)
    check_same(model, tmp_path, example_input=torch.rand(1, *shape))
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        dense = tailcut.to_dense(model).eval()
        wanted = torch.cat([dense(image[None]) for image in images])  # some norms are by their input's own statistics
        found = IntegerNetwork(model)(images)
    assert isinstance(found, torch.Tensor)
    assert (found - wanted).abs().max() < 0.02 * wanted.abs().max()


@pytest.mark.parametrize("settings", TRUNCATIONS.values(), ids=TRUNCATIONS)
def test_batch_norm_by_the_inputs_own_statistics(settings: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = (
        *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU(), nn.Conv2d(6, 5, 3)),
        *(nn.BatchNorm2d(5, affine=False, track_running_stats=False), nn.LeakyReLU(0.1), nn.Conv2d(5, 4, 1)),
    )
    model = lively(nn.Sequential(*layers))
    if settings:
        tailcut.regularize(model, **settings)
        model = enliven(model)
    check_same(model, tmp_path, example_input=torch.rand(1, 3, 12, 11))
    images = torch.rand(4, 3, 12, 11, generator=torch.Generator().manual_seed(2))
    dense = tailcut.to_dense(model).eval()
    with torch.no_grad():
        wanted = torch.cat([dense(image[None]) for image in images])
    found = IntegerNetwork(model)(images)
    assert isinstance(found, torch.Tensor)
    assert (found - wanted).abs().max() < 0.005 * wanted.abs().max()


@pytest.mark.parametrize(
    "norm", [nn.InstanceNorm2d(6, affine=True), nn.BatchNorm2d(6, track_running_stats=False)], ids=type
)
@pytest.mark.parametrize(
    "behind",
    [
        (nn.Conv2d(6, 2, 1),),
        (nn.Conv2d(6, 4, 3, padding=1, groups=2),),
        (nn.ConvTranspose2d(6, 3, 2, 2),),
        (nn.ConvTranspose2d(6, 3, 3, 2),),
        (nn.Flatten(), nn.Linear(6 * 7 * 6, 4)),
        (nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
    ],
    ids=lambda layers: type(layers[-1]).__name__,
)
@pytest.mark.parametrize("settings", [{}, {"num_kept": 30}], ids=["plain", "all axes"])
def test_a_layer_reads_a_measured_norm_as_it_is(
    norm: nn.Module, behind: tuple[nn.Module, ...], settings: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = lively(copy.deepcopy(nn.Sequential(nn.Conv2d(3, 6, 3), norm, *behind)))
    if settings:
        tailcut.regularize(model, **settings)
        model = enliven(model)
    check_same(model, tmp_path, example_input=torch.rand(1, 3, 9, 8))
    image = torch.randn(1, 3, 9, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = tailcut.to_dense(model).eval()(image)
    found = IntegerNetwork(model)(image)
    assert isinstance(found, torch.Tensor)
    assert (found - wanted).abs().max() < 0.005 * wanted.abs().max()


BEHIND_A_NORM: dict[str, tuple[Callable[..., Any], tuple[nn.Module, ...]]] = {
    "padded": (lambda y: functional.pad(y, (2, 1, 1, 2)), ()),
    "padded to a size": (lambda y, c: c(y), (nn.Conv2d(6, 4, 4, padding="same"),)),
    "one below the other": (lambda y: torch.cat([y, y.relu()], 2), ()),
    "strided": (lambda y, c: c(functional.pad(y, (0, 1, 0, 1))), (nn.Conv2d(6, 4, 3, stride=2),)),
}


@pytest.mark.parametrize("name", BEHIND_A_NORM)
@pytest.mark.parametrize(
    "norm",
    [
        nn.InstanceNorm2d(6, affine=True),
        nn.InstanceNorm2d(6),
        nn.BatchNorm2d(6, track_running_stats=False),
        nn.BatchNorm2d(6),
    ],
    ids=["instance, affine", "instance", "batch, measured", "batch"],
)
def test_zeros_around_a_normalised_map_are_zeros(norm: nn.Module, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    function, layers = BEHIND_A_NORM[name]
    parts = copy.deepcopy(nn.Sequential(nn.Conv2d(3, 6, 3), norm, *layers))
    model = lively(With(parts, lambda x, made: function(made[1](made[0](x)), *made[2:])))
    check_same(model, tmp_path, example_input=torch.rand(1, 3, 9, 8))
    image = torch.randn(1, 3, 9, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = model(image)
    found = IntegerNetwork(model)(image)
    assert isinstance(found, torch.Tensor)
    assert (found - wanted).abs().max() < 0.005 * wanted.abs().max()


@pytest.mark.parametrize("num_features", [1_000, 16_000])
def test_weights_of_many_inputs_keep_their_bits(num_features: int) -> None:
    """Of 16,000 features, with 15 bits of the input 2 were left for the weights, and the outputs were 5 % off."""
    torch.manual_seed(0)
    model = nn.Linear(num_features, 10).eval()
    for features in (torch.randn(10, num_features), torch.rand(10, num_features)):
        with torch.no_grad():
            wanted = model(features)
        found = IntegerNetwork(model)(features)
        assert isinstance(found, torch.Tensor)
        assert (found - wanted).abs().max() < (0.002 if num_features < 2_000 else 0.01) * wanted.abs().max()


def test_an_input_of_fewer_bits_is_the_same_in_c(tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = integer_program_of(nn.Linear(2_000, 3), example_input=torch.rand(1, 2_000))
    assert [item.stage.kind.name for item in program.stages] == ["STORE", "CONV", "OUTPUT"]
    check_same(nn.Linear(2_000, 3), tmp_path, example_input=torch.rand(1, 2_000))


def test_masks_of_the_unet_are_those_of_float32(tmp_path: Path) -> None:
    model = tailcut.load("zoo:unet-759-float16")
    noise = np.random.default_rng(0).integers(0, 1 << 15, (2, 3, 48, 40))
    check_same(model, tmp_path, np.concatenate([noise, noise - (1 << 14)]), image_size=(48, 40))
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    image = torch.stack([torch.exp(-3 * (y**2 + x**2)), 0.5 + 0.4 * y, 0.5 - 0.3 * x])[None]
    with torch.no_grad():
        wanted = tailcut.to_dense(model).eval()(image)
    found = IntegerNetwork(model)(image)
    assert isinstance(found, torch.Tensor)
    assert (found.argmax(1) != wanted.argmax(1)).float().mean() < 0.005


SMALL = {"image_size": (16, 12)}  # on fewer pixels a network has the same layers, and odd sizes among its maps


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("resnet20", {}, SMALL),
        ("resnet50", {"width": 4, "small_input": True, "normalize": True}, SMALL),
        ("mobilenetv2_cifar", {"width_multiplier": 0.25}, SMALL),
        ("densenet40", {}, SMALL),
        ("vgg16_bn_cifar", {"width": 4, "hidden": 16}, {}),
        ("lenet5", {}, {}),
    ],
)
@pytest.mark.parametrize("num_kept", [None, 40])
def test_registered_networks(
    name: str, arguments: dict[str, Any], size: dict[str, Any], num_kept: int | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = lively(tailcut.create_model(name, **arguments))
    if num_kept is not None:
        tailcut.regularize(model, num_kept=num_kept)
        model = enliven(model)
    check_same(model, tmp_path, **size)


def test_pixels_of_a_network_on_channels(tmp_path: Path) -> None:
    check_same(tailcut.load("zoo:cifar10-resnet20-combined"), tmp_path, pixels=True, image_size=(40, 37))


@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_random_networks(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Layers of random sizes with weights of very different magnitudes, whole or truncated; sums within 32 bits."""
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    channels, size = data.draw(st.integers(1, 5)), data.draw(st.integers(5, 12))
    layers: list[nn.Module] = []
    count, side = channels, size
    for _ in range(data.draw(st.integers(1, 3))):
        wider = data.draw(st.integers(1, 40))
        kernel, stride, padding = (data.draw(st.integers(*bounds)) for bounds in ((1, 3), (1, 2), (0, 2)))
        kernel = min(kernel, side + 2 * padding)
        side = (side + 2 * padding - kernel) // stride + 1
        layers.append(nn.Conv2d(count, wider, kernel, stride, padding, bias=data.draw(st.booleans())))
        if data.draw(st.booleans()):
            layers.append(nn.BatchNorm2d(wider))
        layers.append(
            data.draw(st.sampled_from([nn.ReLU(), nn.LeakyReLU(0.3), nn.ReLU6(), nn.Upsample(scale_factor=2)]))
        )
        count = wider
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(count, 3)]
    model = lively(nn.Sequential(*layers))
    if data.draw(st.booleans()):
        tailcut.regularize(model, num_kept=data.draw(st.integers(1, 60)))
        model = enliven(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10.0 ** data.draw(st.integers(-6, 6)))
    check_same(model, tmp_path_factory.mktemp("c"), example_input=torch.rand(1, channels, size, size))


def test_close_to_torch_on_images_of_noise() -> None:
    images = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for name in ("lenet5-776", "lenet5-1500", "lenet300-2816"):
        model = tailcut.load(f"zoo:{name}")
        with torch.no_grad():
            wanted = tailcut.to_dense(model).eval()(images)
        found = IntegerNetwork(model)(images)
        assert isinstance(found, torch.Tensor)
        assert (found - wanted).abs().max() < 0.01 * wanted.abs().max()


def test_numbers_of_a_quantised_file_stay_as_they_are() -> None:
    whole = integer_program_of(tailcut.load("zoo:lenet5-1500"))
    assert whole.rounded_weights == ()
    assert integer_program_of(tailcut.load("zoo:lenet5-776")).rounded_weights == (
        "conv1.weight",
        "conv2.weight",
        "fc1.weight",
        "fc2.weight",
    )


def test_the_program_in_python_is_the_one_that_is_written(tmp_path: Path) -> None:
    model = tailcut.load("zoo:lenet5-776")
    export_c(model, tmp_path, arithmetic="integer")
    program = integer_program_of(model)
    plan(program)
    written = (tmp_path / "model.c").read_text(encoding="utf-8")
    assert write_program(program, "model", written.partition("/* ")[2].partition(" */")[0]).source == written


def test_the_report_names_what_was_rounded(tmp_path: Path) -> None:
    report = export_c(tailcut.load("zoo:lenet5-776"), tmp_path, arithmetic="integer")
    assert "rounded to 16 bits, as they are no integers times a step: conv1.weight, conv2.weight" in str(report)
    assert "int16 with an exponent" in str(report)
    assert json.loads(report.to_json())["rounded_weights"] == [
        "conv1.weight",
        "conv2.weight",
        "fc1.weight",
        "fc2.weight",
    ]


def test_the_report_names_truncated_weights_that_are_stored_dense(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = (
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8 * 16, 9), nn.ReLU(), nn.Linear(9, 4)),
    )
    model = nn.Sequential(*layers)
    tailcut.regularize(model, num_kept=20)
    report = export_c(model, tmp_path, example_input=torch.rand(1, 3, 8, 8), arithmetic="integer")
    assert report.dense_weights == ("2.weight", "5.weight")
    assert "truncated, and stored as dense weights all the same: 2.weight, 5.weight" in str(report)
    assert report.flash_bytes["dense weights"] >= 2 * 128
    assert export_c(tailcut.load("zoo:lenet5-1500"), tmp_path, arithmetic="integer").dense_weights == ()
    assert export_c(model, tmp_path, example_input=torch.rand(1, 3, 8, 8)).dense_weights == ()


def test_the_structures_have_the_sizes_that_the_report_counts(tmp_path: Path) -> None:
    compiler, lister = (shutil.which(f"arm-none-eabi-{name}") for name in ("gcc", "nm"))
    if compiler is None or lister is None:
        pytest.skip("needs gcc-arm-none-eabi")
    names = {kind: f"tailcut_{'' if kind == 'segment' else 'integer_'}{kind}" for kind in SIZES}
    arrays = "".join(f"char of_{kind}[sizeof({name})] = {{1}};\n" for kind, name in names.items())
    (tmp_path / "sizes.c").write_text(f'#include "tailcut_run_integer.h"\n{arrays}', encoding="utf-8")
    command = [compiler, "-mcpu=cortex-m0", "-mthumb", f"-I{tailcut.export_c.runtime_folder()}", "-c"]
    subprocess.run([*command, str(tmp_path / "sizes.c"), "-o", str(tmp_path / "sizes.o")], check=True)
    listed = subprocess.run([lister, "-S", str(tmp_path / "sizes.o")], check=True, capture_output=True, text=True)
    found = {line.split()[3].removeprefix("of_"): int(line.split()[1], 16) for line in listed.stdout.splitlines()}
    assert found == SIZES


def test_bad_arguments_and_other_memory_of_the_same_size(tmp_path: Path) -> None:
    export_c(tailcut.load("zoo:lenet300-2816"), tmp_path, arithmetic="integer")
    sources = [*sorted(tmp_path.glob("*.c")), C_FOLDER / "run_integer_arguments.c"]
    program = compile_c(tmp_path / "arguments", sources, *SANITIZED, folders=[tmp_path])
    assert subprocess.run([str(program)], check=False).returncode == 0


@pytest.mark.parametrize("core", ["cortex-m0", "cortex-m3"])
def test_no_float_is_computed(core: str, tmp_path: Path) -> None:
    """No function of the compiler for floats is called; all parts of the runtime are there."""
    compiler, lister = (shutil.which(f"arm-none-eabi-{name}") for name in ("gcc", "nm"))
    if compiler is None or lister is None:
        pytest.skip("needs gcc-arm-none-eabi")
    runtime = Path(tailcut.export_c.runtime_folder())
    made = tmp_path / "runner.o"
    source = runtime / "tailcut_run_integer.c"
    subprocess.run([compiler, f"-mcpu={core}", "-mthumb", "-Os", "-c", str(source), "-o", str(made)], check=True)
    symbols = subprocess.run([lister, "-u", str(made)], check=True, capture_output=True, text=True).stdout.split()[1::2]
    own = {"tailcut_order_start", "tailcut_order_next", "tailcut_start_coder", "tailcut_coded_bit", "tailcut_plain_bit"}
    division = {"__aeabi_uidiv", "__aeabi_uidivmod", "__aeabi_idiv", "__aeabi_idivmod"}
    words_of_64_bits = {"__aeabi_lmul", "__aeabi_llsl", "__aeabi_llsr", "__aeabi_lasr"}
    switches = {name for name in symbols if re.fullmatch(r"__gnu_thumb1_case_\w+", name)}
    assert set(symbols) - switches <= own | division | words_of_64_bits | {"memset", "memcpy"}


class TestRefused:
    """What integers have no form of is named, with what to do."""

    @pytest.mark.parametrize(
        ("layers", "named"),
        [
            ([nn.Conv2d(3, 4, 1), nn.Softplus(threshold=1.0)], "softplus of 1 and 1, which jumps"),
            ([nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)], "group norm"),
            ([nn.Conv2d(3, 4, 1), *(nn.Sigmoid() for _ in range(16))], "at most 15"),
            ([nn.Conv2d(3, 4, 1), nn.LeakyReLU(2.0)], "a slope beyond -1 to 1"),
            ([nn.PReLU(3, init=3.0), nn.Conv2d(3, 4, 1)], r"^before conv2d \(1\): .*a slope beyond -1 to 1"),
            ([nn.Conv2d(3, 4, 1), nn.LeakyReLU(-1.5)], "a slope beyond -1 to 1"),
            ([nn.Conv2d(3, 4, 1), nn.Softmax(1)], "softmax"),
        ],
    )
    def test_layers(self, layers: list[nn.Module], named: str, tmp_path: Path) -> None:
        example = torch.rand(1, 3, 4, 4)
        with pytest.raises(StructureError, match=rf"{named}.*; export with the arithmetic float32"):
            export_c(nn.Sequential(*layers), tmp_path, example_input=example, arithmetic="integer")
        assert list(tmp_path.iterdir()) == []
        export_c(nn.Sequential(*layers), tmp_path, example_input=example)

    def test_another_arithmetic(self, tmp_path: Path) -> None:
        with pytest.raises(ArgumentError, match="float32, integer, got 'int8'"):
            export_c(tailcut.load("zoo:lenet5-776"), tmp_path, arithmetic="int8")

    def test_inputs_that_do_not_fit(self) -> None:
        program = integer_program_of(tailcut.load("zoo:lenet5-776"))
        for wrong in (np.zeros((1, 1, 28, 28)), np.zeros((1, 28, 28), int), np.full((1, 1, 28, 28), 1 << 15)):
            with pytest.raises(ArgumentError, match="integers within 16 bits"):
                simulate(program, wrong)
        with pytest.raises(ArgumentError, match="within -100 and 100"):
            simulate(program, np.zeros((1, 1, 28, 28), int), 101)
        with pytest.raises(ArgumentError, match=r"does not take an input of shape \(1, .*, the batch first: "):
            IntegerNetwork(tailcut.load("zoo:lenet5-776"))(torch.rand(1, 3, 32, 32))


class TestArithmetic:
    """The functions of the page, against exact ones."""

    def test_cosines_are_those_of_a_dct(self) -> None:
        for size in (1, 2, 3, 5, 28, 300, 512):
            wanted = scipy.fft.idct(np.eye(size), norm="ortho", axis=0) * np.sqrt(size / 2)
            wanted[:, 0] *= np.sqrt(2)
            assert np.abs(cosines(size, size) - wanted * 16384).max() < 2

    @given(value=st.integers(-(1 << 30), 1 << 30), power=st.integers(-40, 40))
    def test_shifts_round_halves_up(self, value: int, power: int) -> None:
        exact = value * 2**power if power >= 0 else (2 * value + 2**-power) // (2 * 2**-power)
        if power <= 30:
            assert int(shifted(np.asarray(value), power)) == exact

    def test_halves(self) -> None:
        assert rounded(np.asarray([3, 1, -1, -3]), 1).tolist() == [2, 1, 0, -1]

    @given(value=st.floats(1e-30, 1e30), sign=st.sampled_from([-1, 1]))
    def test_scaled_numbers(self, value: float, sign: int) -> None:
        mantissa, exponent = (int(part) for part in scaled(sign * value))
        assert 1 << 14 <= abs(mantissa) < 1 << 15
        assert abs(mantissa * 2.0**exponent - sign * value) <= value / 2**14
        word = int(packed(np.asarray(mantissa), np.asarray(exponent)))
        assert (word >> 8, (word & 255) - 128) == (mantissa, exponent)

    def test_integers_of_images(self) -> None:
        numbers, exponents = to_integers(np.asarray([[1.0, -0.25], [0.0, 0.0], [-3.0, 1e-9]]))
        assert exponents.tolist() == [-14, 0, -13]
        assert numbers.tolist() == [[16384, -4096], [0, 0], [-24576, 0]]


assert set(COVERED) <= set(MADE)


@pytest.mark.parametrize(
    "layers",
    [
        (nn.ConvTranspose2d(4, 2, 4, 2, 1),),
        (nn.ConvTranspose2d(4, 6, 2, 2), nn.ReLU(), nn.ConvTranspose2d(6, 3, 3, 2, bias=False)),
    ],
)
@pytest.mark.parametrize("settings", TRUNCATIONS.values(), ids=TRUNCATIONS)
def test_transposed_convolutions_alone(layers: tuple[nn.Module, ...], settings: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = copy.deepcopy(nn.Sequential(*layers)).eval()
    if settings:
        tailcut.regularize(model, **settings)
    check_same(model, tmp_path, example_input=torch.rand(1, 4, 5, 6))


CLAMPS: dict[str, Callable[[Tensor, nn.Module], Tensor]] = {
    "beside a map": lambda x, layer: layer(x).clamp(min=0.5) + x,
    "below all": lambda x, layer: layer(x).clamp(max=-20.0) - x,
    "far from all": lambda x, layer: functional.hardtanh(layer(x), 10.0, 20.0) + x,
    "far below all": lambda x, layer: functional.hardtanh(layer(x), -20.0, -10.0),
    "bounds exchanged": lambda x, layer: layer(x).clamp(3.0, -7.0) + x,
    "beside a map before a layer": lambda x, layer: layer(layer(x).clamp(min=0.5) + x),
    "a factor": lambda x, layer: layer(x).clamp(min=4.0) * x,
    "a factor of a map": lambda x, layer: layer(x) * x.clamp(min=0.5),
    "a function": lambda x, layer: torch.sigmoid(layer(x).clamp(min=2.0)) * x,
    "pooled": lambda x, layer: functional.max_pool2d(layer(x), 2).clamp(min=0.5) + 1,
    "zeros": lambda x, layer: functional.pad(layer(x), (1, 0, 0, 2)).clamp(min=0.25),
}


@pytest.mark.parametrize("name", CLAMPS)
def test_clamps_beyond_all_numbers(name: str, tmp_path: Path) -> None:
    """Rows have room for what a clamp makes of them, however small the input is."""
    torch.manual_seed(2)
    model = With(nn.Conv2d(3, 3, 1, bias=False), CLAMPS[name])
    example = torch.randn(1, 3, 6, 7)
    check_same(model, tmp_path, example_input=example)
    numbers = np.stack([(example[0].numpy() * 4096 * scale).round() for scale in (1, 0.1, 0.01, 0)]).astype(np.int64)
    (found,) = simulate(integer_program_of(model, example_input=example), numbers, -12)
    with torch.no_grad():
        wanted = model.double()(torch.from_numpy(numbers / 4096)).numpy()
    for one, other in zip(found.to_float(), wanted, strict=True):
        assert np.abs(one - other).max() <= 1e-3 * np.abs(other).max()


def test_inputs_that_are_no_numbers_are_refused() -> None:
    network = IntegerNetwork(nn.Sequential(nn.Linear(4, 3)).eval())
    for number in (math.nan, math.inf):
        with pytest.raises(ArgumentError, match="not finite, which integers cannot hold"):
            network(torch.tensor([[1.0, 2.0, 3.0, number]]))
    assert network(torch.zeros(0, 4)).shape == (0, 3)


def test_the_mode_of_the_network_is_not_changed() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    integers = IntegerNetwork(model)
    assert (integers.training, model.training, model[1].training) == (False, True, True)
