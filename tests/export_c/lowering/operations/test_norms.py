"""Layer norm, RMS norm and group norm."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.export_c.lowering.many import compare_all
from torch import nn
from torch.nn import functional

from tailcut.errors import StructureError
from tailcut.export_c.export import export_c
from tailcut.export_c.lowering.operations import norms

CLOSE = 2e-6


def test_norms_of_maps(tmp_path: Path) -> None:
    torch.manual_seed(1)
    gamma, beta = torch.rand(6) + 0.5, torch.rand(6)
    functions: list[Callable[[Any], Any]] = [
        nn.GroupNorm(3, 6),
        nn.GroupNorm(1, 6, affine=False),
        nn.GroupNorm(6, 6),
        lambda x: functional.layer_norm(x.permute(0, 2, 3, 1), [6], gamma.to(x), beta.to(x)).permute(0, 3, 1, 2),
        lambda x: functional.rms_norm(x.permute(0, 2, 3, 1), [6], gamma.to(x), 1e-3).permute(0, 3, 1, 2),
        lambda x: functional.layer_norm(x.permute(0, 2, 3, 1), [6]),
        nn.LayerNorm([6, 5, 4], elementwise_affine=False),
        lambda x: functional.layer_norm(x, [5, 4]),
        lambda x: functional.layer_norm(x.mean((2, 3)), [6], gamma.to(x), beta.to(x)),
        lambda x: functional.group_norm(x.mean((2, 3)), 2, gamma.to(x), beta.to(x)),
        lambda x: functional.layer_norm(100 + x, [6, 5, 4]),
    ]
    assert norms.HANDLERS
    assert compare_all(tmp_path, nn.Conv2d(3, 6, 3), (3, 7, 6), functions) < 2e-5  # of 100 and more, less their mean


def test_norms_of_a_map_of_one_channel(tmp_path: Path) -> None:
    torch.manual_seed(1)
    gamma, beta = torch.rand(1, 1) + 0.5, torch.rand(1, 1)
    functions: list[Callable[[Any], Any]] = [
        lambda x: functional.layer_norm(x, [5, 4], gamma.expand(5, 4).to(x), beta.expand(5, 4).to(x)),
        lambda x: functional.layer_norm(x, [1, 5, 4], gamma.expand(1, 5, 4).to(x), beta.expand(1, 5, 4).to(x)),
    ]
    assert compare_all(tmp_path, nn.Conv2d(3, 1, 3), (3, 7, 6), functions) < 2e-5
    layer = nn.LayerNorm([5, 4])
    nn.init.uniform_(layer.weight)
    with pytest.raises(StructureError, match="a weight for each place; C code knows one for each channel"):
        export_c(nn.Sequential(nn.Conv2d(3, 1, 3), layer), tmp_path / "places", example_input=torch.rand(1, 3, 7, 6))


def test_norms_of_sequences(tmp_path: Path) -> None:
    functions: list[Callable[[Any], Any]] = [
        lambda x: functional.layer_norm(x.mT, [6]).mT,
        lambda x: functional.layer_norm(x, [9]),
        lambda x: functional.rms_norm(x.mT, [6], None, 1e-5),
        nn.GroupNorm(2, 6),
    ]
    assert compare_all(tmp_path, nn.Conv1d(3, 6, 3), (3, 11), functions) < CLOSE


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.LayerNorm([4, 4, 4]), "a weight for each place; C code knows one for each channel"),
        (nn.RMSNorm([4, 4]), r"a norm over \[4, 4\] of \(1, 4, 4, 4\); C code knows it over the channels"),
    ],
)
def test_what_has_no_form_is_named(layer: nn.Module, message: str, tmp_path: Path) -> None:
    for parameter in layer.parameters():
        nn.init.uniform_(parameter)
    with pytest.raises(StructureError, match=message):
        export_c(nn.Sequential(nn.Conv2d(3, 4, 3), layer), tmp_path / "c", example_input=torch.rand(1, 3, 6, 6))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.LayerNorm(64), r"a norm of \(1, 64\), a flattened map; C code knows it before `flatten`"),
        (nn.GroupNorm(2, 64), r"a norm of \(1, 64\), a flattened map; C code knows it before `flatten`"),
        (nn.BatchNorm1d(64).eval(), r"\(1, 64\) once it is flattened; C code knows it of channels, before `flatten`"),
    ],
)
def test_norms_of_flattened_maps_have_no_form(layer: nn.Module, message: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), layer, nn.Linear(64, 3))
    with pytest.raises(StructureError, match=message):
        export_c(model, tmp_path / "c", example_input=torch.rand(1, 3, 6, 6))
