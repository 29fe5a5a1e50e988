"""Numbers for each place, and maps one behind the other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.export_c.lowering.many import With, compare_all
from torch import Tensor, nn

from tailcut.errors import StructureError
from tailcut.export_c.export import export_c
from tailcut.export_c.lowering.operations import places

CLOSE = 2e-6


class Tables(nn.Module):
    """Numbers for the places of (1, 4, 7, 5)."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = {"all": (1, 4, 7, 5), "of_map": (7, 5), "of_rows": (7, 1), "row": (1, 4, 1, 5), "column": (1, 4, 7, 2)}
        self.tables = nn.ParameterDict(
            {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        )


def test_numbers_for_each_place_of_a_map(tmp_path: Path) -> None:
    assert places.MOST_BEFORE
    functions: list[Callable[[Any], Any]] = [
        With(Tables(), lambda x, own: x + own.tables["all"]),
        With(Tables(), lambda x, own: own.tables["of_map"] - x.relu()),
        With(Tables(), lambda x, own: torch.add(x, own.tables["of_rows"], alpha=3).sigmoid()),
        With(Tables(), lambda x, own: torch.cat([x, own.tables["row"], x[:, :, :2]], 2)),
        With(Tables(), lambda x, own: torch.cat([own.tables["column"], x, x.relu()], 3)),
        With(
            Tables(), lambda x, own: (nn.functional.max_pool2d(x, 2) + own.tables["of_map"][:3, :2]).permute(0, 2, 3, 1)
        ),
    ]
    assert compare_all(tmp_path, nn.Conv2d(3, 4, 3), (3, 9, 7), functions) < CLOSE


def test_numbers_along_the_length(tmp_path: Path) -> None:
    """Even where there are as many as channels: (length,) is added along the length, as in torch."""
    functions: list[Callable[[Any], Any]] = [
        lambda x: x + torch.arange(4.0),
        lambda x: x.mT - torch.arange(4.0)[:, None],
        lambda x: torch.cat([x, x.relu(), x * 2], 2),
        lambda x: torch.cat([x.mT, torch.arange(4.0)[None, None]], 1),
    ]
    assert compare_all(tmp_path, nn.Conv1d(3, 4, 3), (3, 6), functions) < CLOSE


class Of(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.function = nn.Conv2d(3, 4, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda x: torch.cat([x, x], 0),
            r"cat \(Of.forward\): a concatenation along axis 0; C code knows channels, rows",
        ),
        (lambda x: torch.stack([x[:, 0], x[:, 1]], 2), "stack .*: maps stacked along axis 2; C code knows"),
    ],
)
def test_what_has_no_form_is_named(function: Callable[[Tensor], Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(StructureError, match=message):
        export_c(Of(function), tmp_path / "c", example_input=torch.rand(1, 3, 9, 7))


def test_integers_name_the_layer(tmp_path: Path) -> None:
    model = Of(lambda x: x + torch.arange(35.0).view(7, 5))
    with pytest.raises(StructureError, match=r"add .*: integers have no form of a number for each place; export with"):
        export_c(model, tmp_path / "c", example_input=torch.rand(1, 3, 9, 7), arithmetic="integer")
