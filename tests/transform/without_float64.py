"""What is computed in float64 is so for tensors of a device that does not have it. The oracle is the CPU.

For a process of its own, by test_exact.py: the stand-in would be an accelerator to the other tests.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.no_float64 import NAME, OnStandIn, StandInDevice, moved
from torch import Tensor, nn

import tailcut
from tailcut.channels import score
from tailcut.compression import measure_sensitivity
from tailcut.errors import ArgumentError
from tailcut.inputs import BlockDCT
from tailcut.transform import dct, exact, idct
from tailcut.weights import truncated_tensors


@pytest.fixture(autouse=True)
def _without(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(exact, "WITHOUT_FLOAT64", (NAME,))
    with StandInDevice():
        yield


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    ).eval()


def there(x: Tensor) -> Tensor:
    return OnStandIn(x)


def test_the_stand_in_refuses_float64() -> None:
    x = there(torch.rand(3))
    assert (x.device.type, x.cpu().device.type) == (NAME, "cpu")
    with pytest.raises(TypeError, match="no float64"):
        x.double()
    with pytest.raises(TypeError, match="no float64"):
        torch.zeros(2, dtype=torch.float64, device=NAME)
    assert exact.exact(x).dtype == torch.float64
    assert exact.exact(x).device.type == "cpu"


def test_regularised_networks_answer_as_on_the_cpu() -> None:
    here, other, x = network(), moved(network()), torch.rand(2, 3, 8, 8)
    for model in (here, other):
        tailcut.regularize(model, num_kept=20)
    with torch.no_grad():
        torch.testing.assert_close(other(there(x)).cpu(), here(x))
    for one, two in zip(truncated_tensors(here), truncated_tensors(other), strict=True):
        torch.testing.assert_close(two.vector.detach().cpu(), one.vector.detach())


def test_tails_are_cut_there() -> None:
    other = moved(network())
    tailcut.regularize(other, num_kept=40)
    schedule = tailcut.TailTruncation(other, num_kept=10, num_steps=2)
    for _ in range(2):
        schedule.step()
    schedule.finish()
    assert {tensor.num_kept for tensor in truncated_tensors(other)} == {10}
    dense = tailcut.to_dense(other)
    x = there(torch.rand(2, 3, 8, 8))
    with torch.no_grad():
        torch.testing.assert_close(dense(x).cpu(), other(x).cpu())


@pytest.mark.parametrize("method", ["spectral", "l1", "l2", "fpgm", "apoz", "hrank", "bn_scale", "random"])
def test_scores_are_those_of_the_cpu(method: Any) -> None:
    images = torch.rand(4, 3, 8, 8)
    found = score(moved(network()), [there(images)], method=method)
    wanted = score(network(), [images], method=method)
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values)


@pytest.mark.parametrize(
    "function",
    [lambda x: dct(x, (0, 1)), lambda x: idct(x, (0, 1)), lambda x: dct(x.repeat(40, 1), (0,))],
)
def test_transforms(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.rand(17, 12)
    torch.testing.assert_close(function(there(x)).cpu(), function(x))


def test_statistics_of_inputs() -> None:
    images = torch.rand(3, 3, 16, 16)
    here, other = BlockDCT(), moved(BlockDCT())
    here.fit([images])
    other.fit([there(images)])  # type: ignore[operator]
    torch.testing.assert_close(other.mean.cpu(), here.mean)
    torch.testing.assert_close(other(there(images)).cpu(), here(images))


@pytest.mark.parametrize("dtype", ["float16", "quantized"])
def test_files_are_those_of_the_cpu(dtype: str, tmp_path: Path) -> None:
    here, other = network(), moved(network())
    for name, model in (("here", here), ("other", other)):
        tailcut.regularize(model, num_kept=20)
        tailcut.save(model, tmp_path / f"{name}.tailcut", dtype=dtype)
    assert (tmp_path / "other.tailcut").read_bytes() == (tmp_path / "here.tailcut").read_bytes()


def test_what_needs_float64_itself_says_so(tmp_path: Path) -> None:
    model, images = moved(network()), [there(torch.rand(4, 3, 8, 8))]
    for what, call in (
        ("compress", lambda: tailcut.compress(model, tmp_path / "a.tailcut", images, max_bytes=4000)),
        ("measure_sensitivity", lambda: measure_sensitivity(model, images)),
        ("RateLoss", lambda: tailcut.RateLoss(model, target_bytes=4000, num_steps=10)),
    ):
        with pytest.raises(ArgumentError, match=rf"{what} works in float64, which {NAME} does not have: .*model\.cpu"):
            call()
