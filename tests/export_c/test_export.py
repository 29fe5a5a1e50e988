"""Networks in C, beside torch: the same outputs, in the memory that the export says."""

import errno
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.export_c.compiling import C_FOLDER, SANITIZED, compile_c, optimized
from tests.export_c.networks import MADE, TRUNCATIONS, enliven, lively, truncated
from tests.export_c.running import compare
from torch import Tensor, nn

import tailcut
from tailcut.errors import ArgumentError, StructureError
from tailcut.export_c.export import export_c
from tailcut.export_c.integer_network import IntegerNetwork
from tailcut.export_c.program.memory import plan
from tailcut.export_c.program.program import Kind, Leaf, Map, Program, Stage, of_leaf
from tailcut.files import write_atomically
from tailcut.inputs import BlockDCT, replace_stem, use_ycbcr
from tailcut.inputs.transform.input_transform import input_transform_of

CLOSE = 1e-5
EDITED = sorted((Path(__file__).parents[1] / "format" / "golden" / "edits").glob("*.tailcut"))
# One of each architecture, kind of file and way of a layer; all others differ in numbers only.
ZOO = {
    "alexnet-1408-float16": None,
    "gan-64383": None,
    "lenet300-2816": None,
    "lenet300-ref": None,
    "lenet5-1500": None,
    "lenet5-776": None,
    "lenet5-7668": None,
    "lenet5-ref": None,
    "resnet18-2688": None,
    "resnet18-12058": None,
    "unet-2936": (48, 40),
    "unet-759-float16": (96, 96),
    "vae-97134": None,
    "vgg16-2048": None,
}


@pytest.mark.parametrize("name", ZOO)
def test_networks_of_the_zoo(name: str, tmp_path: Path) -> None:
    model = tailcut.load(f"zoo:{name}")
    difference, report = compare(model, tmp_path, options=optimized(name), image_size=ZOO[name])
    assert difference < CLOSE
    if "-ref" not in name:
        assert sum(report.flash_bytes.values()) < report.dense_weight_bytes / 15


@pytest.mark.parametrize("chroma", ["full", "two_scale"])
@pytest.mark.parametrize("size", [None, (37, 52)], ids=["whole blocks", "parts of blocks"])
def test_pixels_become_frequency_channels(chroma: str, size: tuple[int, int] | None, tmp_path: Path) -> None:
    model = tailcut.create_model("resnet50", width=4, small_input=True)
    replace_stem(model, BlockDCT(24, chroma=chroma), image_size=64)  # type: ignore[arg-type]
    difference, report = compare(lively(with_statistics(model)), tmp_path, pixels=True, image_size=size)
    assert report.input_shape == (3, *(size or (64, 64)))
    assert difference < CLOSE


def test_pixels_become_ycbcr(tmp_path: Path) -> None:
    model = use_ycbcr(tailcut.create_model("resnet20"), image_size=30)
    difference, report = compare(lively(with_statistics(model)), tmp_path, pixels=True)
    assert report.input_shape == (3, 30, 30)
    assert difference < CLOSE


def test_the_network_itself_is_not_changed(tmp_path: Path) -> None:
    model = tailcut.create_model("resnet20").train()
    replace_stem(model, 24)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_c(model, tmp_path, pixels=True)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_on_pixels_reads_them_anyway(tmp_path: Path) -> None:
    model = tailcut.load("zoo:lenet5-776")
    assert export_c(model, tmp_path, pixels=True).flash_bytes == export_c(model, tmp_path).flash_bytes


def with_statistics(model: nn.Module) -> nn.Module:
    """Give the network's transform the statistics of some noise."""
    transform = input_transform_of(model)
    assert transform is not None
    transform.fit([torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))])
    return model


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("settings", TRUNCATIONS.values(), ids=TRUNCATIONS)
def test_every_operation(name: str, settings: dict[str, object], tmp_path: Path) -> None:
    model, shape = truncated(name, **settings)
    difference, _ = compare(model, tmp_path, example_input=torch.rand(1, *shape))
    assert difference < CLOSE


@pytest.mark.parametrize("name", ["activated", "pools", "pooled outputs", "transposed"])
def test_less_code_gives_the_same_outputs(name: str, tmp_path: Path) -> None:
    """What a compiler is given with -Os, which reads the channels one by one."""
    model, shape = truncated(name, keep_ratio=0.4, axes=(0, 1))
    difference, _ = compare(model, tmp_path, options=["-DTAILCUT_SMALL=1"], example_input=torch.rand(1, *shape))
    assert difference < CLOSE


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("resnet20", {}, None),
        ("resnet50", {"width": 4, "small_input": True, "normalize": True}, None),
        ("mobilenetv2_cifar", {"width_multiplier": 0.25}, (16, 12)),
        ("densenet40", {}, (16, 12)),
        ("unet", {"widths": (8, 12, 16)}, (37, 43)),
        ("unet", {"widths": (8, 12, 16), "bilinear": True}, (37, 43)),
        ("unet", {"widths": (8, 12, 16), "bias": False, "affine": False, "running_stats": False}, (33, 50)),
        ("vgg16_bn_cifar", {"width": 4, "hidden": 16}, None),
        ("dcgan_discriminator", {"width": 8}, None),
    ],
)
def test_registered_networks(
    name: str, arguments: dict[str, Any], size: tuple[int, int] | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = lively(tailcut.create_model(name, **arguments))
    tailcut.regularize(model, num_kept=40)
    difference, _ = compare(enliven(model), tmp_path, image_size=size)
    assert difference < CLOSE


@pytest.mark.parametrize("path", [path for path in EDITED if "gate" not in path.stem], ids=lambda path: path.stem)
def test_networks_with_edits(path: Path, tmp_path: Path) -> None:
    """Pruned ones, and ones that read frequency channels or YCbCr."""
    difference, _ = compare(tailcut.load(path), tmp_path)
    assert difference < CLOSE


def test_quantised_coefficients_stay_small_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tailcut.create_model("lenet5", bias=False, convolutional=True)
    tailcut.regularize(model, num_kept=100)
    tailcut.save(model, tmp_path / "small.tailcut", dtype="quantized", step=0.2)
    difference, report = compare(tailcut.load(tmp_path / "small.tailcut"), tmp_path / "c")
    assert difference < CLOSE
    assert report.flash_bytes["coefficients"] == 400  # bytes, one each


@pytest.mark.parametrize("largest", [100, 30_000])
def test_many_whole_numbers_are_coded(largest: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tailcut.create_model("lenet5", bias=False, convolutional=True)
    tailcut.regularize(model, num_kept=450)
    with torch.no_grad():
        for coefficients in model.parameters():
            wild = torch.randn_like(coefficients).pow(9)
            coefficients.copy_((wild * largest / wild.abs().max()).round() * 2.0**-14)
    difference, report = compare(model, tmp_path)
    assert difference < CLOSE
    assert report.flash_bytes["coefficients"] < 4 * 450 * (1 if largest < 128 else 2) - 4 * 128


def test_unet_needs_less_than_its_maps(tmp_path: Path) -> None:
    report = export_c(tailcut.load("zoo:unet-759-float16"), tmp_path, image_size=(96, 96))
    assert report.arena_bytes < 240_000
    assert report.arena_bytes + report.input_and_output_bytes < 350_000
    assert report.dense_map_bytes > 9_000_000
    assert report.dense_weight_bytes == 124_099_840


def test_a_network_of_99_percent_in_48_kb(tmp_path: Path) -> None:
    report = export_c(tailcut.load("zoo:lenet5-1500"), tmp_path)
    assert report.arena_bytes + report.input_bytes + report.output_bytes < 45_000  # and a stack of 1.7 KB


def test_an_input_that_is_read_at_the_end_is_not_overwritten(tmp_path: Path) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            outputs: Tensor = x + self.layer(x)
            return outputs

    difference, report = compare(Residual(), tmp_path, example_input=torch.rand(1, 2, 8, 8))
    assert not report.can_run_in_place
    assert report.input_and_output_bytes == 2 * 4 * 128
    assert difference < CLOSE


def test_an_export_leaves_nothing_of_the_other_arithmetic(tmp_path: Path) -> None:
    model = tailcut.load("zoo:lenet5-776")
    (tmp_path / "main.c").write_text("int main(void) { return 0; }")
    for arithmetic in ("float32", "integer", "float32"):
        report = export_c(model, tmp_path, arithmetic=arithmetic)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["main.c", *report.files])


@pytest.mark.parametrize("name", ["model.c", "model.h", "tailcut_run.c", "tailcut_run_integer.c", "tailcut_features.h"])
def test_a_file_of_ones_own_is_not_replaced(name: str, tmp_path: Path) -> None:
    """Neither one that an export would write, nor one that it would remove as of the other arithmetic."""
    own = "/* my own */\nint answer(void) { return 42; }\n"
    (tmp_path / name).write_text(own)
    with pytest.raises(ArgumentError, match=rf"{name} is there, and no export to C has written it; move it, or export"):
        export_c(tailcut.load("zoo:lenet5-776"), tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, own)]
    (tmp_path / name).unlink()
    for arithmetic in ("integer", "float32"):
        export_c(tailcut.load("zoo:lenet5-776"), tmp_path, arithmetic=arithmetic)


def test_logs_and_lines_of_others_arrive_during_an_export(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    class Speaking(nn.Module):
        """Logs, and lets another thread write, while it is traced."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            logging.getLogger("mine").warning("a line of mine")
            other = threading.Thread(target=lambda: print("a line of another thread", file=sys.stderr))
            other.start()
            other.join()
            outputs: Tensor = self.layer(x)
            return outputs

    export_c(Speaking(), tmp_path, example_input=torch.rand(1, 3))
    assert "a line of mine" in caplog.messages
    assert "a line of another thread" in capsys.readouterr().err


def test_a_trace_that_fails_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Forked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.sum() > 0 else x

    with pytest.raises(StructureError, match=r"^Forked cannot be exported: .*$"):
        export_c(Forked(), tmp_path, example_input=torch.rand(1, 3))
    assert capfd.readouterr().err == ""


def test_what_is_no_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"got 'zoo:lenet5-776'; give tailcut\.load\('zoo:lenet5-776'\)"):
        export_c("zoo:lenet5-776", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"give tailcut\.load\('a\.tailcut'\)"):
        IntegerNetwork(Path("a.tailcut"))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"expected a network \(a torch\.nn\.Module\), got int"):
        export_c(3, tmp_path)  # type: ignore[arg-type]


def test_what_has_no_form_in_c_is_named(tmp_path: Path) -> None:
    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Hardshrink())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.inner(x)
            return y

    with pytest.raises(StructureError, match=r"hardshrink \(inner\.1\)"):
        export_c(Shuffled(), tmp_path, example_input=torch.rand(1, 3, 4, 4))
    assert list(tmp_path.iterdir()) == []


def test_bad_examples(tmp_path: Path) -> None:
    model = tailcut.create_model("lenet5")
    with pytest.raises(ArgumentError, match="not both"):
        export_c(model, tmp_path, example_input=torch.rand(1, 1, 28, 28), image_size=(28, 28))
    with pytest.raises(ArgumentError, match="expected an example"):
        export_c(model, tmp_path, example_input=torch.rand(2, 1, 28, 28))
    with pytest.raises(ArgumentError, match="example_input="):
        export_c(nn.Conv2d(1, 1, 1), tmp_path)
    with pytest.raises(ArgumentError, match=r"does not take an input of shape \(1, 1, 14, 14\)"):
        export_c(model, tmp_path, image_size=(14, 14))
    for size in ((0, 28), (28, 65_536), (60_000, 60_000)):
        with pytest.raises(ArgumentError, match=r"must be a height and a width of 1 to 65,535"):
            export_c(model, tmp_path, image_size=size)


def test_bad_arguments_and_another_arena_of_the_same_size(tmp_path: Path) -> None:
    """NULL and misaligned pointers are refused; what the arena held before does not matter."""
    export_c(tailcut.load("zoo:lenet300-2816"), tmp_path)
    program = compile_c(
        tmp_path / "arguments",
        [*sorted(tmp_path.glob("*.c")), C_FOLDER / "run_arguments.c"],
        *SANITIZED,
        folders=[tmp_path],
    )
    assert subprocess.run([str(program)], check=False).returncode == 0


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(ArgumentError, match=r"cannot write .*c: the folder cannot be made there \(Permission denied\)"):
        export_c(nn.Linear(2, 2), tmp_path / "c", example_input=torch.rand(1, 2))


def test_windows_and_maps_beyond_the_structures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="of 300, at most 255"):
        export_c(nn.AvgPool2d(300), tmp_path, example_input=torch.rand(1, 1, 600, 600))
    with pytest.raises(StructureError, match="sizes up to 65535"):
        export_c(nn.Linear(70_000, 2), tmp_path, example_input=torch.rand(1, 70_000))
    program = Program([Stage(Kind.STORE, of_leaf(Leaf(Map(1, 1, 1), 1, 1, 1)), Map(1 << 16, 1 << 15, 1))])
    with pytest.raises(StructureError, match="smaller input"):
        plan(program)


def test_autocast_outside_does_not_reach_the_export(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    x = torch.zeros(1, 1, 6, 6)
    export_c(model, tmp_path / "a", example_input=x)
    with torch.autocast("cpu", torch.bfloat16):
        export_c(model, tmp_path / "b", example_input=x)
    assert (tmp_path / "a" / "model.c").read_bytes() == (tmp_path / "b" / "model.c").read_bytes()


def test_an_export_that_fails_half_way_leaves_the_earlier_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_c(nn.Linear(4, 3), tmp_path / "net", example_input=torch.zeros(1, 4))
    before = {path.name: path.read_bytes() for path in (tmp_path / "net").iterdir()}
    written: list[Path] = []

    def until_the_disk_is_full(path: Path, content: str) -> None:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write_atomically(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("tailcut.export_c.export.write_atomically", until_the_disk_is_full)
        with pytest.raises(OSError, match="No space left"):
            export_c(nn.Linear(9, 3), tmp_path / "net", example_input=torch.zeros(1, 9))
    assert written
    assert {path.name: path.read_bytes() for path in (tmp_path / "net").iterdir()} == before


def test_a_network_that_reads_tokens_is_refused_in_our_words(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(32, 2))
    with pytest.raises(ArgumentError, match=r"example_input is int64, and C code reads floating-point numbers"):
        export_c(network, tmp_path / "out", example_input=torch.arange(8)[None])
