from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.inputs import networks
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from tailcut import models as models
from tailcut.data import open_dataset
from tailcut.errors import ArgumentError, DataError, StructureError
from tailcut.format import load, save
from tailcut.inputs.selection.selection import triangle
from tailcut.inputs.stem.edit import LayerEntry, transform_of
from tailcut.inputs.stem.transplant import transplant_stem
from tailcut.inputs.transform.block_dct import BlockDCT
from tailcut.structure import create_model, record_of
from tailcut.weights import regularize

MEAN, STD = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.3, 0.25])[:, None, None]


def images(count: int, size: int, seed: int = 0) -> Tensor:
    """Images with most energy at low frequencies, as photos have."""
    generator = torch.Generator().manual_seed(seed)
    parts = [
        interpolate(torch.rand(count, 3, side, side, generator=generator), (size, size), mode="bilinear") * weight
        for side, weight in ((3, 0.5), (7, 0.3), (size, 0.2))
    ]
    return torch.stack(parts).sum(0)


def fitted(channels: Any, loader: list[Tensor], *, chroma: Any = "full") -> BlockDCT:
    return BlockDCT(channels, chroma=chroma).fit(loader)


class Patches(nn.Module):
    """A stem that sees whole blocks only, without padding: the regression can be exact."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 5, stride, stride=stride)
        self.norm = nn.BatchNorm2d(5)
        self.relu = nn.ReLU()
        self.body = nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(self.relu(self.norm(self.conv1(x)))).mean(dim=(2, 3))
        return y


class Bright(Patches):
    """Looks at its input once more."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 10 * x.mean(dim=(1, 2, 3))[:, None]


def test_a_second_look_at_the_input_is_refused_unchanged() -> None:
    loader = [images(8, 32, seed) for seed in range(4)]
    model = Bright(2).eval()
    names = list(model.state_dict())
    with pytest.raises(StructureError, match="the same output of conv1 leads to other outputs on channels"):
        transplant_stem(model, fitted(192, loader), loader)
    assert list(model.state_dict()) == names


class Answers(Patches):
    """Gives more than its features, or draws noise."""

    def __init__(self, kind: str) -> None:
        super().__init__(2)
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        if self.kind == "noise":
            torch.randn_like(x)  # as many numbers as there are pixels, which are others of channels
        y = super().forward(x)
        return {
            "nan": (y, torch.full((1,), torch.nan)),
            "size": {"y": y, "size": torch.tensor(x.shape[2:])},
            "noise": y + torch.randn(4),
            "masked": torch.cat([y, torch.full_like(y, -torch.inf)], 1),
            "masked and bright": torch.cat([y + 10 * x.mean(), torch.full_like(y, -torch.inf)], 1),
            "bright and large": (y + 10 * x.mean(), x[:, :1]),
        }[self.kind]


@pytest.mark.parametrize("kind", ["nan", "size", "noise", "masked", "masked and bright", "bright and large"])
def test_outputs_of_all_kinds_are_compared(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    loader = [images(8, 32, seed) for seed in range(4)]
    model, transform = Answers(kind).eval(), fitted(192, loader)
    if "bright" in kind:
        with pytest.raises(StructureError, match="the same output of conv1 leads to other outputs on channels"):
            transplant_stem(model, transform, loader)
        return
    transplant_stem(model, transform, loader)
    assert ("it makes some by the size of its input" in caplog.text) == (kind == "size")


@pytest.mark.parametrize(("stride", "shuffle", "new_stride"), [(2, 4, 1), (8, 1, 1), (16, 1, 2)])
def test_a_stem_of_whole_blocks_is_found_exactly(stride: int, shuffle: int, new_stride: int) -> None:
    loader = [images(8, 32, seed).double() for seed in range(16)]
    model = Patches(stride).double().eval()
    transform = fitted(192, loader).double()
    x = images(4, 48, 99).double()
    expected = model((x - MEAN) / STD)
    report = transplant_stem(
        model,
        transform,
        loader,
        preprocess=lambda pixels: (pixels - MEAN) / STD,
        kernel_size=1 if stride <= 8 else 3,
        ridge=1e-12,
    )
    assert report.relative_error < 1e-4
    assert (report.shuffle, report.stride, report.num_images) == (shuffle, new_stride, 128)
    if new_stride == 1:  # with a stride of 2 the kernel lies around the block that the old one began with
        torch.testing.assert_close(model(transform(x)), expected, atol=1e-4, rtol=1e-3)


def lstsq(x: Tensor, y: Tensor, kernel: int, ridge: float) -> tuple[np.ndarray, float]:
    """Ridge regression of y (batch, K, h, w) on neighbourhoods of x (batch, C, h, w), by NumPy's least squares."""
    x_padded = np.pad(x.double().numpy(), ((0, 0), (0, 0), (kernel // 2,) * 2, (kernel // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(x_padded, (kernel, kernel), axis=(2, 3))
    rows = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1] * kernel**2)
    wanted = y.double().numpy().transpose(0, 2, 3, 1).reshape(-1, y.shape[1])
    damping = np.sqrt(ridge * (rows**2).sum(0).mean())
    left = np.block([[rows, np.ones((len(rows), 1))], [damping * np.eye(rows.shape[1]), np.zeros((rows.shape[1], 1))]])
    right = np.concatenate([wanted, np.zeros((rows.shape[1], wanted.shape[1]))])
    solution = np.linalg.lstsq(left, right, rcond=None)[0]
    missed = wanted - (rows @ solution[:-1] + solution[-1])
    return solution, float(np.sqrt((missed**2).sum() / ((wanted - wanted.mean(0)) ** 2).sum()))


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_fit_is_ridge_regression(kernel: int) -> None:
    loader = [images(5, 32, seed) for seed in range(3)]
    model = networks.SharedReLU().eval()
    model.conv = nn.Conv2d(3, 6, 7, stride=8, padding=3)
    transform = fitted(12, loader)
    x, y = transform(torch.cat(loader)), model.conv(torch.cat(loader)).detach()
    expected, error = lstsq(x, y, kernel, 0.01)
    report = transplant_stem(model, transform, loader, kernel_size=kernel, ridge=0.01)
    new: Any = model.conv
    weight = new.weight.detach().flatten(1).T.numpy()
    np.testing.assert_allclose(weight, expected[:-1], atol=2e-5 * np.abs(expected).max())
    np.testing.assert_allclose(new.bias.detach().numpy(), expected[-1], atol=1e-5)
    assert report.relative_error == pytest.approx(error, rel=1e-4)


def test_finer_maps_are_sorted_by_pixel_shuffle() -> None:
    loader = [images(6, 32, seed) for seed in range(2)]
    model = networks.SharedReLU().eval()  # its first convolution has stride 1: 32 x 32 maps of 4 x 4 blocks
    transform = fitted(24, loader)
    old = model.conv(torch.cat(loader)).detach()
    x = transform(torch.cat(loader))
    fine = old.reshape(12, 6, 4, 8, 4, 8).permute(0, 1, 3, 5, 2, 4).reshape(12, 6 * 64, 4, 4)
    _, error = lstsq(x, fine, 1, 1e-6)
    report = transplant_stem(model, transform, loader, kernel_size=1)
    new = model.conv(x).detach()
    assert new.shape == old.shape
    spread = fine - fine.mean(dim=(0, 2, 3), keepdim=True)
    assert float((new - old).square().sum() / spread.square().sum()) ** 0.5 == pytest.approx(error, rel=1e-3)
    assert report.relative_error == pytest.approx(error, rel=1e-3)
    assert report.shuffle == 8
    assert "8 x 8 finer in place of conv, fitted to 12 images" in str(report)


def test_uint8_and_resized_images() -> None:
    whole = [(images(4, 16, seed) * 255).byte() for seed in range(3)]

    def enlarged(x: Tensor) -> Tensor:
        return interpolate(x, scale_factor=2.0, mode="bilinear")

    def halved(x: Tensor) -> Tensor:
        return avg_pool2d(x, 2)

    reports = []
    for loader in (whole, [x / 255 for x in whole], [(x, torch.zeros(4)) for x in whole]):
        model = create_model("resnet20", width=2).eval()
        torch.manual_seed(0)
        nn.init.normal_(model.get_submodule("conv1").get_parameter("weight"))
        transform = BlockDCT(24).fit([enlarged(x / 255) for x in whole])
        reports.append(transplant_stem(model, transform, loader, preprocess=halved, resize=enlarged))
        assert model(transform(enlarged(whole[0] / 255))).shape == (4, 10)
    assert {report.shuffle for report in reports} == {2}
    assert max(report.relative_error for report in reports) == pytest.approx(
        min(report.relative_error for report in reports), rel=1e-3
    )


@pytest.mark.parametrize("target", [None, "relu"])
def test_files_restore_it(target: str | None, tmp_path: Path) -> None:
    loader = [images(6, 32, seed) for seed in range(2)]
    model = create_model("resnet20", width=3, normalize=True).eval()
    transform = fitted(triangle(20), loader, chroma="two_scale")
    report = transplant_stem(model, transform, loader, target=target)
    assert report.removed == (("normalize", "conv1") if target is None else ("normalize", "conv1", "bn1", "relu"))
    edit: Any = record_of(model).edits[0]
    assert edit.entry == LayerEntry(3, 3, 1, 1, 8)
    save(model, tmp_path / "a.tailcut")
    restored = load(tmp_path / "a.tailcut")
    own = transform_of(restored)
    assert own is not None
    x = images(3, 32, 7)
    with torch.no_grad():
        assert torch.equal(restored(own(x)), model(transform(x)))
    save(restored, tmp_path / "b.tailcut")
    assert (tmp_path / "b.tailcut").read_bytes() == (tmp_path / "a.tailcut").read_bytes()


def test_a_sequence(tmp_path: Path) -> None:
    loader = [images(6, 32, seed) for seed in range(2)]
    model = networks.sequence().eval()
    transplant_stem(model, fitted(24, loader), loader)
    own = transform_of(model)
    assert own is model[0].input_transform
    save(model, tmp_path / "a.tailcut")
    restored = load(tmp_path / "a.tailcut", into=networks.sequence())
    x = own(images(2, 32, 5))
    with torch.no_grad():
        assert torch.equal(restored(x), model(x))


@pytest.mark.parametrize(
    ("options", "loader", "error", "message"),
    [
        ({"kernel_size": 2}, None, ArgumentError, "odd kernel_size"),
        ({"kernel_size": 65}, None, ArgumentError, "odd kernel_size"),
        ({"ridge": -1.0}, None, ArgumentError, "ridge of at least 0"),
        ({"target": "nowhere"}, None, ArgumentError, "target: the model has no module 'nowhere'"),
        ({"target": "linear"}, None, ArgumentError, "'linear' gives no tensor"),
        ({"preprocess": lambda x: x[:, :, :18, :18]}, None, ArgumentError, "one must be a whole multiple"),
        ({"preprocess": lambda x: x / 0}, None, DataError, "conv1 gives numbers that are not finite"),
        ({"kernel_size": 63}, None, ArgumentError, "more than 8192 inputs"),
        ({"ridge": 0}, [torch.zeros(1, 3, 32, 32)], ArgumentError, "raise ridge above 0"),
        ({}, [], DataError, "no images"),
        ({}, [torch.zeros(3, 8, 8)], ArgumentError, "loader of RGB images"),
        ({}, ["a.png"], ArgumentError, "got str"),
    ],
)
def test_what_does_not_fit_leaves_the_network_as_it_was(
    options: dict[str, Any], loader: Any, error: type[Exception], message: str
) -> None:
    batches = [images(3, 32)]
    model = create_model("resnet20", width=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(error, match=message):
        transplant_stem(model, fitted(24, batches), batches if loader is None else loader, **options)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert model.training
    assert record_of(model).edits == []


def test_what_stands_in_the_way() -> None:
    batches = [images(3, 32)]
    model = networks.Functional()
    with pytest.raises(StructureError, match="between the input and body the forward does more than call modules"):
        transplant_stem(model, fitted(24, batches), batches, target="body")
    assert isinstance(model.conv, nn.Conv2d)
    with pytest.raises(StructureError, match="between the input and conv the forward does more than call modules"):
        transplant_stem(networks.Normalised(), fitted(24, batches), batches)
    regularize(model, keep_ratio=0.5)
    with pytest.raises(StructureError, match="replace the stem first"):
        transplant_stem(model, fitted(24, batches), batches)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    with pytest.raises(ArgumentError, match=r"transform must be a BlockDCT, .*; got 24"):
        transplant_stem(create_model("resnet20", width=2), 24, [])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="runs no Conv2d"):
        transplant_stem(linear, fitted(24, batches), batches)


@pytest.mark.parametrize("loader", [5, None, 3.5])
def test_what_is_no_loader_is_told(loader: Any) -> None:
    with pytest.raises(ArgumentError, match=f"batches of images, got {type(loader).__name__}$"):
        transplant_stem(Patches(8), BlockDCT(24), loader)


class CheckedPatches(nn.Module):
    """A patch embedding that checks its input as timm's does, and reshapes by its counts as torchvision's does."""

    def __init__(self, size: int, patch: int, *, in_pairs: bool, counts_patches: bool) -> None:
        super().__init__()
        self.img_size: Any = (size, size) if in_pairs else size
        self.patch_size: Any = patch
        self.num_channels = 3
        self.counts_patches = counts_patches
        self.proj = nn.Conv2d(3, 6, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        side = self.img_size[0] if isinstance(self.img_size, tuple) else self.img_size
        if x.shape[1:] != (self.num_channels, side, side):
            raise ValueError(f"Input {tuple(x.shape[1:])} doesn't match model ({side})")
        y: Tensor = self.proj(x).flatten(2)
        if self.counts_patches and y.shape[2] != (side // self.patch_size) ** 2:
            raise ValueError("Other patches")
        return y


class Checking(nn.Module):
    def __init__(self, size: int, patch: int, **options: bool) -> None:
        super().__init__()
        self.image_size = size
        self.patch_embed = CheckedPatches(size, patch, **options)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.image_size:
            raise ValueError("Another size")
        y: Tensor = self.head(self.patch_embed(x).mean(2))
        return y


@pytest.mark.parametrize(
    ("patch", "in_pairs", "counts_patches"), [(4, True, False), (16, True, True), (16, False, True), (8, False, True)]
)
def test_sizes_that_a_network_checks_become_those_of_the_channels(
    patch: int, in_pairs: bool, counts_patches: bool, tmp_path: Path
) -> None:
    """Fitted to as many images as make it exact: 8 x 8 channels of 64 x 64 pixels."""
    torch.manual_seed(0)
    options = {"in_pairs": in_pairs, "counts_patches": counts_patches}
    model = Checking(64, patch, **options).double().eval()
    loader = [images(8, 64, seed).double() for seed in range(16)]
    transform, x = fitted(192, loader).double(), images(4, 64, 99).double()
    expected = model(x)
    report = transplant_stem(model, transform, loader, kernel_size=1 if patch <= 8 else 3, ridge=1e-12)
    assert report.relative_error < 1e-4
    assert (model.image_size, model.patch_embed.img_size) == (8, (8, 8) if in_pairs else 8)
    assert model.patch_embed.num_channels == 192
    if patch <= 8:
        torch.testing.assert_close(model(transform(x)), expected, atol=1e-4, rtol=1e-3)
    save(model, tmp_path / "a.tailcut")
    again = load(tmp_path / "a.tailcut", into=Checking(64, patch, **options)).double().eval()
    torch.testing.assert_close(again(transform(x)), model(transform(x)), atol=1e-5, rtol=1e-4)


def test_sizes_that_nothing_checks_stay() -> None:
    """A network may enlarge its output to the size of the image."""

    class Enlarging(Patches):
        def __init__(self) -> None:
            super().__init__(8)
            self.image_size = 32

    loader = [images(8, 32, seed) for seed in range(4)]
    model = Enlarging()
    transplant_stem(model, fitted(24, loader), loader)
    assert model.image_size == 32


def test_a_network_that_checks_otherwise_is_refused() -> None:
    class Odd(Patches):
        def __init__(self) -> None:
            super().__init__(8)
            self.image_size = 16  # of something else

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] != 32:
                raise ValueError("32 pixels, please")
            return super().forward(x)

    loader = [images(8, 32, seed) for seed in range(4)]
    with pytest.raises(StructureError, match="32 pixels, please"):
        transplant_stem(Odd(), fitted(24, loader), loader)


def test_a_trained_network_keeps_its_accuracy(cifar10_root: Path, weights_root: Path) -> None:
    """ResNet-20 reads half the numbers (24 channels of the image enlarged by 2), fitted to 100 images."""
    model = create_model("resnet20", normalize=True).eval()
    state = torch.load(weights_root / "weights" / "resnet20-cifar10.th", weights_only=True, map_location="cpu")[
        "state_dict"
    ]
    model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    test = open_dataset("cifar10", "test", roots=cifar10_root)
    x, labels = test.batch(range(400))
    fit = test.batch(range(1000, 1100))[0]  # no labels

    def enlarged(pixels: Tensor) -> Tensor:
        return interpolate(pixels, scale_factor=2.0, mode="bilinear")

    def batches() -> Iterator[Tensor]:
        yield from fit.split(50)

    with torch.no_grad():
        before = model(x).argmax(1)
        transform = BlockDCT(24).fit(map(enlarged, batches()))
        transplant_stem(model, transform, batches(), resize=enlarged)
        channels = transform(enlarged(x))
        after = model(channels).argmax(1)
    assert channels[0].numel() * 2 == x[0].numel()
    accuracy = (before == labels).float().mean(), (after == labels).float().mean()
    assert accuracy[0] > 0.89
    assert accuracy[1] > accuracy[0] - 0.02
    assert (before == after).float().mean() > 0.96


@pytest.mark.parametrize(("scale", "num_warnings"), [(2, 1), (1, 0)])
def test_images_that_are_enlarged_outside_are_warned_of(
    scale: int, num_warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    loader = [torch.rand(8, 3, 32, 32) for _ in range(4)]
    with caplog.at_level("WARNING"):
        transplant_stem(model, BlockDCT(24), loader, resize=lambda x: interpolate(x, scale_factor=scale))
    assert len(caplog.records) == num_warnings
    assert not num_warnings or "resize makes images of 64 x 64 of those of 32 x 32, outside" in caplog.text


def test_images_of_two_sizes_are_told() -> None:
    model, loader = Patches(2).eval(), [images(4, 32), images(4, 48)]
    with pytest.raises(ArgumentError, match=r"images must have one size: their channels are \(6, 6\) after \(4, 4\)"):
        transplant_stem(model, fitted(24, loader[:1]), loader)
    assert isinstance(model.conv1, nn.Conv2d)
