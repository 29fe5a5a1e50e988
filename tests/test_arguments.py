"""Numbers that users give, of Python and of NumPy, wherever they are taken."""

import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tailcut
from tailcut import inputs
from tailcut.arguments import check_part, check_positive, check_seed, is_integer, is_number
from tailcut.channels import score
from tailcut.errors import ArgumentError
from tailcut.weights import kept_counts, truncate_norms


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    num_kept: Any = np.int64(40)
    tailcut.regularize(model, num_kept=num_kept, warn=False)
    return model.eval()


IMAGES = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_numbers_become_those_of_python() -> None:
    for number in (3, np.int64(3), np.uint8(3)):
        assert (check_seed(number), type(check_seed(number))) == (3, int)
        assert is_integer(number)
        assert is_number(number)
    for part in (0.5, np.float32(0.5), np.float64(0.5)):
        assert is_number(part)
        assert not is_integer(part)
    for value in (True, "3", None, float("nan"), float("inf"), 1j):
        assert not is_integer(value)
        assert not is_number(value)


def test_positive_integers() -> None:
    for number in (3, np.int64(3), np.uint8(3)):
        assert (check_positive("x", number), type(check_positive("x", number))) == (3, int)
    for value in (0, -1, True, 1.0, "1", None, np.int64(0), np.float32(1), np.bool_(True)):
        with pytest.raises(ArgumentError, match=re.escape(f"x must be a positive integer, got {value!r}")):
            check_positive("x", value)


def test_parts() -> None:
    for number in (0.5, np.float32(0.5), np.float64(0.5), Fraction(1, 2)):
        assert (check_part("x", number), type(check_part("x", number))) == (0.5, float)
    assert type(check_part("x", np.int64(1))) is float
    for value in (0, 1.01, -0.5, True, "0.5", None, math.nan, np.float32(2), np.bool_(True), 0.5j):
        with pytest.raises(ArgumentError, match=re.escape(f"x must be above 0 and at most 1, got {value!r}")):
            check_part("x", value)


def test_what_is_no_seed() -> None:
    value: Any
    for value in (1.5, "1", None, True, 1 << 64):
        with pytest.raises(ArgumentError, match="seed must be an integer of at most 64 bits, got"):
            check_seed(value)


CALLS: dict[str, Callable[[Path, Any, Any], Any]] = {
    "max_bytes": lambda path, integer, _: tailcut.save(network(), path, dtype="quantized", max_bytes=integer(2000)),
    "step": lambda path, _, number: tailcut.save(network(), path, dtype="quantized", step=number(0.5)),
    "norms": lambda path, integer, _: truncate_norms(network(), integer(3)),
    "levels": lambda path, integer, number: tailcut.NestedLevels(network(), [number(0.5)], seed=integer(1)),
    "arguments": lambda path, integer, _: tailcut.create_model("lenet5", num_classes=integer(7)),
    "sensitivity": lambda path, integer, _: tailcut.measure_sensitivity(
        network(), IMAGES.split(8), num_gradients=integer(2), seed=integer(1)
    ),
    "score": lambda path, integer, _: score(network(), IMAGES.split(8), method="random", seed=integer(1)),
    "random channels": lambda path, integer, _: inputs.Selection.random(integer(24), seed=integer(1)),
    "best channels": lambda path, integer, _: inputs.Selection.top(torch.rand(192), integer(24)),
    "square": lambda path, integer, _: inputs.square(integer(40)),
    "rate": lambda path, integer, _: tailcut.RateLoss(network(), target_bytes=integer(900), num_steps=integer(4)),
}


@pytest.mark.parametrize("name", CALLS)
def test_numbers_of_numpy_are_taken_as_those_of_python(name: str, tmp_path: Path) -> None:
    found = []
    for integer, number in ((np.int64, np.float32), (int, float)):
        torch.manual_seed(0)
        found.append(facts(CALLS[name](tmp_path / "a.tailcut", integer, number)))
    assert found[0] == found[1]
    assert found[0]


def facts(result: Any) -> Any:
    """What a call gave, to be compared."""
    if isinstance(result, nn.Module):
        return {key: value.tolist() for key, value in result.state_dict().items() if isinstance(value, Tensor)}
    if isinstance(result, tailcut.NestedLevels):
        return str(vars(result).keys()), type(result).__name__
    if isinstance(result, Mapping):
        return {key: facts(value) for key, value in result.items()}
    return result.tolist() if isinstance(result, Tensor) else repr(result)


def test_they_are_stored_as_those_of_python(tmp_path: Path) -> None:
    number: Any = np.int64
    tailcut.save(tailcut.create_model("lenet5", num_classes=number(7)), tmp_path / "a.tailcut")
    assert tailcut.inspect(tmp_path / "a.tailcut").arguments == {"num_classes": 7}
    tailcut.save(network(), tmp_path / "b.tailcut", levels=(0.5,))
    lower = tailcut.load(tmp_path / "b.tailcut", into=nn.Sequential(*network_layers()), level=number(1))
    assert set(kept_counts(lower).values()) == {20}


def network_layers() -> list[nn.Module]:
    return [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)]
