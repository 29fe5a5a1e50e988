"""The library on a CUDA device, compared with the same computation on the CPU or with dense layers.

`python -m pytest tests/cuda` runs them where there is a device; this file needs the core alone, and no conftest.
TF32, which has three digits, is off.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import tailcut
from tailcut.channels import recalibrate, score
from tailcut.inputs import BlockDCT, replace_stem
from tailcut.structure import create_model
from tailcut.tasks.compress import compress_file
from tailcut.transform import dct, idct
from tailcut.weights import lsuv_init, truncated_tensors

DEVICE = torch.device("cuda")
CPU = torch.device("cpu")

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # Of a backward pass that is the first to multiply, and of torch's newer names for TF32.
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS:UserWarning"),
    pytest.mark.filterwarnings("ignore:Please use the new API settings:UserWarning"),
]


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Products of float32 in float32, for the block of a test."""
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = flags


def small_network() -> nn.Sequential:
    """Convolutions, batch norm, pooling, a transposed convolution and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.ConvTranspose2d(32, 16, 2, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def regularized_network(num_kept: int = 40) -> nn.Sequential:
    """The small network with so many coefficients a tensor, and statistics that are not those of a new one."""
    network = small_network()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    tailcut.regularize(network, num_kept=num_kept)
    return network


def on_device(network: nn.Module) -> nn.Module:
    """A copy of a network on the device."""
    return copy.deepcopy(network).to(DEVICE)


def devices_of(network: nn.Module) -> set[str]:
    """Where its parameters and buffers are."""
    return {tensor.device.type for tensor in (*network.parameters(), *network.buffers())}


def assert_close(found: Tensor, expected: Tensor, *, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """What the device gave is what the CPU gave, up to rounding in float32."""
    assert found.device.type == DEVICE.type
    torch.testing.assert_close(found.detach().cpu(), expected.detach(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("transform", [dct, idct])
def test_transforms(transform: Callable[[Tensor], Tensor]) -> None:
    for shape in ((7,), (16, 33), (5, 6, 3, 3), (300, 4), (2, 1031)):
        x = torch.randn(shape, dtype=torch.float64)
        assert_close(transform(x.to(DEVICE)), transform(x), rtol=1e-11, atol=1e-11)
        assert_close(transform(x.float().to(DEVICE)), transform(x).float())


@pytest.mark.parametrize("num_kept", [40, 4000])
def test_gradients_of_a_regularized_network(num_kept: int) -> None:
    exact = regularized_network(num_kept).double()
    there = on_device(exact.float())
    exact.double()
    x, target = torch.randn(8, 3, 16, 16), torch.randint(10, (8,))

    expected, found = exact(x.double()), there(x.to(DEVICE))
    cross_entropy(expected, target).backward()
    cross_entropy(found, target.to(DEVICE)).backward()

    assert_close(found, expected.float())
    for one, other in zip(there.parameters(), exact.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert_close(one.grad, other.grad.float(), rtol=1e-3)


def test_a_large_corner_is_expanded_by_products() -> None:
    layer = nn.Sequential(nn.Linear(512, 512, bias=False))
    tailcut.regularize(layer, keep_ratio=0.5)
    there, x = on_device(layer), torch.randn(4, 512)
    assert any(stage.by_fft for tensor in truncated_tensors(layer) for stage in tensor.truncation.stages)
    assert not any(stage.by_fft for tensor in truncated_tensors(there) for stage in tensor.truncation.stages)
    torch.testing.assert_close(there(x.to(DEVICE)).cpu(), layer(x), rtol=1e-4, atol=1e-4)
    back = there.cpu()
    torch.testing.assert_close(back(x), layer(x))


def test_a_network_regularized_on_the_device() -> None:
    network = small_network()
    there = on_device(network)
    tailcut.regularize(there, keep_ratio=0.1)
    tailcut.regularize(network, keep_ratio=0.1)

    for one, other in zip(truncated_tensors(there), truncated_tensors(network), strict=True):
        assert_close(one.vector, other.vector)
    assert devices_of(there) == {DEVICE.type}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("strategy", ["auto", "low_rank"])
def test_fused_network_against_dense_layers(strategy: str, training: bool) -> None:
    network = on_device(regularized_network()).train(training)
    dense, x = tailcut.to_dense(network), torch.randn(8, 3, 32, 32, device=DEVICE)
    fused = tailcut.fuse(network)
    fused.strategy = strategy
    given = copy.deepcopy(network)  # it rebuilds its weights: gradients to coefficients to compare with

    expected = dense(x)
    found = fused(x)
    assert_close(found, expected.cpu())
    if strategy == "low_rank":
        assert {layer.strategy for layer in fused.report().layers} & {"fused", "factored"}
    found.square().mean().backward()
    given(x).square().mean().backward()
    for one, other in zip(network.parameters(), given.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert_close(one.grad, other.grad.cpu(), rtol=1e-3)
    for buffer, kept in zip(network.buffers(), given.buffers(), strict=True):
        assert_close(buffer, kept.cpu())
    with torch.no_grad():
        first = fused(x)
        assert torch.equal(first, fused(x)) or training


@pytest.mark.parametrize("rows", [1, 4])
def test_fused_unet_with_batch_statistics(rows: int) -> None:
    network = create_model("unet", widths=(16, 32, 64), bias=False, affine=False, running_stats=False).eval()
    tailcut.regularize(network, num_kept=33)
    exact = tailcut.to_dense(network).double()
    fused = tailcut.fuse(on_device(network))
    fused.strategy = "low_rank"
    x = torch.rand(rows, 3, 64, 48)
    with torch.no_grad():
        assert_close(fused(x.to(DEVICE)), exact(x.double()).float(), rtol=1e-3, atol=1e-3)


def test_tail_truncation_with_an_optimizer() -> None:
    network, x, target = regularized_network(2000), torch.randn(16, 3, 8, 8), torch.randint(10, (16,))
    there = on_device(network)

    def steps(model: nn.Module, device: torch.device) -> dict[str, Any]:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-4)
        schedule = tailcut.TailTruncation(model, num_kept=60, num_steps=6, optimizer=optimizer)
        for _ in range(6):
            optimizer.zero_grad()
            cross_entropy(model(x.to(device)), target.to(device)).backward()
            optimizer.step()
            schedule.step()
            schedule.compact_when_worthwhile()
        schedule.finish()
        state = schedule.optimizer_state_dict()
        again = torch.optim.Adam(model.parameters(), lr=1e-3)
        schedule = tailcut.TailTruncation(model, num_kept=60, num_steps=6, optimizer=again)
        schedule.load_optimizer_state_dict(state)
        assert schedule.finished
        found: dict[str, Any] = state["state"]
        return found

    expected, found = steps(network, CPU), steps(there, DEVICE)
    for one, other in zip(truncated_tensors(there), truncated_tensors(network), strict=True):
        assert one.num_kept == other.num_kept
        assert_close(one.vector, other.vector, rtol=1e-2, atol=1e-3)
    for number, entry in expected.items():
        assert found[number]["exp_avg"].shape == entry["exp_avg"].shape
        assert_close(found[number]["exp_avg"], entry["exp_avg"], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("method", ["spectral", "fpgm", "apoz", "hrank", "bn_scale"])
def test_scores_and_the_pruned_network(method: Any) -> None:
    network = create_model("resnet20").eval()
    images = [torch.rand(8, 3, 32, 32) for _ in range(2)]
    there = on_device(network)
    expected, found = score(network, images, method=method), score(there, images, method=method)
    assert set(found) == set(expected)
    for name, values in expected.items():
        # A rank may change by one in some maps, where a singular value is about rounding.
        torch.testing.assert_close(found[name].cpu(), values, rtol=1e-3, atol=0.5 if method == "hrank" else 1e-3)

    # By the same scores, since rounding may swap two channels that score alike.
    tailcut.prune(network, images[0][:1], expected, rates=0.5)
    tailcut.prune(there, images[0][:1].to(DEVICE), expected, rates=0.5)
    assert recalibrate(there, images) == recalibrate(network, images)
    assert devices_of(there) == {DEVICE.type}
    with torch.no_grad():
        assert_close(there(images[0].to(DEVICE)), network(images[0]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("chroma", ["two_scale", "full"])
def test_channels_of_images(chroma: Any) -> None:
    transform, images = BlockDCT(24, chroma=chroma), torch.rand(4, 3, 61, 48)
    there = copy.deepcopy(transform).to(DEVICE)
    transform.fit([images])
    there.fit([images.to(DEVICE)])
    assert_close(there.mean, transform.mean)
    assert_close(there.std, transform.std)
    channels = transform(images)
    assert_close(there(images.to(DEVICE)), channels, atol=1e-4)
    assert_close(there.inverse(channels.to(DEVICE), (61, 48)), transform.inverse(channels, (61, 48)), atol=1e-4)

    network = create_model("resnet18", num_classes=10).eval()
    moved = on_device(network)
    replace_stem(network, 24)
    replace_stem(moved, 24)
    assert devices_of(moved) == {DEVICE.type}
    moved.load_state_dict(network.state_dict())
    x = transform(torch.rand(2, 3, 64, 64))
    with torch.no_grad():
        assert_close(moved(x.to(DEVICE)), network(x), rtol=1e-3, atol=1e-3)


def test_scaled_start() -> None:
    network, x = regularized_network(500), torch.randn(64, 3, 8, 8)
    there = on_device(network)
    expected, found = lsuv_init(network, x), lsuv_init(there, x.to(DEVICE))
    assert found == pytest.approx(expected, rel=1e-4)
    for one, other in zip(there.parameters(), network.parameters(), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("lenet5-1500", (1, 28, 28)), ("vgg16-2048", (3, 32, 32)), ("cifar10-resnet20-combined", (24, 16, 16))],
)
def test_a_packed_network(name: str, shape: tuple[int, ...]) -> None:
    network, there = tailcut.load(f"zoo:{name}"), tailcut.load(f"zoo:{name}", device=DEVICE)
    x = torch.rand(4, *shape)
    assert devices_of(there) == {DEVICE.type}
    with torch.no_grad():
        expected = network(x)
        assert_close(there(x.to(DEVICE)), expected, rtol=1e-3, atol=1e-3)
        assert_close(tailcut.fuse(there)(x.to(DEVICE)), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "quantized"])
def test_a_file_saved_from_the_device(dtype: str, tmp_path: Path) -> None:
    network = create_model("lenet5")
    tailcut.regularize(network, num_kept=100)
    tailcut.save(network, tmp_path / "here.tailcut", dtype=dtype)
    tailcut.save(on_device(network), tmp_path / "there.tailcut", dtype=dtype)
    here, there = ((tmp_path / f"{where}.tailcut").read_bytes() for where in ("here", "there"))
    if dtype == "quantized":  # steps may differ in their last bit
        assert len(there) == pytest.approx(len(here), rel=0.01)
    else:
        assert there == here


@pytest.mark.parametrize("name", ["lenet5-ref", "lenet5-7668"])  # dense, truncated
def test_a_compressed_network(name: str, tmp_path: Path) -> None:
    network = tailcut.load(f"zoo:{name}").eval()
    there, x = on_device(network), torch.rand(64, 1, 28, 28)
    small = tailcut.compress(network, tmp_path / "here.tailcut", [x], step=0.005, num_gradients=16)
    report = tailcut.compress(there, tmp_path / "there.tailcut", [x.to(DEVICE)], step=0.005, num_gradients=16)
    assert report.file_bytes == pytest.approx(small.file_bytes, rel=0.02)
    with torch.no_grad():
        found, expected = (tailcut.load(tmp_path / f"{where}.tailcut")(x) for where in ("there", "here"))
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.5)  # of outputs to 40


def test_a_compressed_file(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="has the digits")
    out = tmp_path / "there.tailcut"
    settings: dict[str, Any] = {"max_bytes": 700, "num_gradients": 16}
    report = compress_file("zoo:lenet5-776", out, "digits", **settings, device=str(DEVICE))
    here = compress_file("zoo:lenet5-776", tmp_path / "here.tailcut", "digits", **settings, device="cpu")
    assert (report.device, here.device) == (torch.cuda.get_device_name(DEVICE), "cpu")
    assert report.file_bytes == out.stat().st_size <= 700
    assert (report.before, report.after) == pytest.approx((here.before, here.after), abs=0.03)


def test_training_for_bytes() -> None:
    network, x, target = regularized_network(200), torch.randn(16, 3, 8, 8), torch.randint(10, (16,))
    there = on_device(network)

    def losses(model: nn.Module, device: torch.device) -> list[float]:
        rate_loss = tailcut.RateLoss(model, target_bytes=600, num_steps=3)
        optimizer = rate_loss.optimizer(torch.optim.SGD, lr=1e-2)
        found = []
        for _ in range(3):
            optimizer.zero_grad()
            with rate_loss.rounded():
                loss = cross_entropy(model(x.to(device)), target.to(device)) + rate_loss()
                loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
        return found

    assert losses(there, DEVICE) == pytest.approx(losses(network, CPU), rel=1e-2)
