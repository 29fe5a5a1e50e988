"""Which tensors are in which stream, of files that `save` wrote."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tailcut
from tailcut.errors import ArgumentError
from tailcut.format.container.contents import decode
from tailcut.format.container.numbers import INTEGERS, QUANTIZED
from tailcut.format.container.streams import layout_of_other, quantized_places


class Mixed(nn.Module):
    """A truncated weight, batch norm, a plain bias, a mask, a table of integers too far apart to be coded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=True)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("far", torch.tensor([0, 2**40]))
        self.register_buffer("scale", torch.tensor([0.1, float("inf")]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.fc(self.norm(self.conv(x)).mean((2, 3)))
        return result


def written(path: Path, *, keep: int | None = 20, **settings: Any) -> Mixed:
    torch.manual_seed(0)
    model = Mixed().eval()
    model.get_buffer("norm.num_batches_tracked").fill_(7)
    if keep:
        tailcut.regularize(model, num_kept=keep)
    tailcut.save(model, path, **settings)
    return model


@pytest.mark.parametrize("keep", [None, 20])
@pytest.mark.parametrize("settings", [{"dtype": "quantized"}, {"other_dtype": "quantized"}, {"dtype": "float16"}])
def test_what_was_saved_comes_back(keep: int | None, settings: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "mixed.tailcut"
    step = {} if "float16" in settings.values() else {"step": 1e-4}
    model = written(path, keep=keep, **settings, **step)
    found = tailcut.load(path, into=Mixed())
    for (name, wanted), value in zip(model.state_dict().items(), found.state_dict().values(), strict=True):
        assert value.dtype == wanted.dtype, name
        torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-3)
        if not wanted.is_floating_point() or name == "scale":
            assert torch.equal(value, wanted), name
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(found(x), model(x), rtol=1e-2, atol=1e-2)


def test_types_of_a_quantised_file(tmp_path: Path) -> None:
    path = tmp_path / "mixed.tailcut"
    written(path, dtype="quantized")
    contents = decode(path.read_bytes())
    assert contents.version == 2
    names = [other.name for other in contents.others]
    types = dict(zip(names, contents.other_types, strict=True))
    assert {name for name, number in types.items() if number == INTEGERS} == {"norm.num_batches_tracked", "mask"}
    assert types["far"] == 4
    assert types["scale"] == 0
    assert types["norm.running_var"] == types["fc.bias"] == QUANTIZED
    assert contents.has_quantized_coefficients
    assert [stream.type_number for stream in contents.other_streams] == [4, 0]
    assert [names[place] for place in quantized_places(contents)] == [
        name for name in names if types[name] >= QUANTIZED
    ]


def test_files_without_quantised_numbers_are_of_version_1(tmp_path: Path) -> None:
    written(tmp_path / "plain.tailcut")
    assert decode((tmp_path / "plain.tailcut").read_bytes()).version == 1


def test_nothing_to_quantise(tmp_path: Path) -> None:
    model = nn.Module()
    model.register_buffer("table", torch.tensor([0.5]))
    with pytest.raises(ArgumentError, match="nothing to quantise"):
        tailcut.save(model, tmp_path / "x.tailcut", dtype="quantized")


def test_keys_are_the_last_part_of_a_name() -> None:
    assert layout_of_other("layer.0.norm.weight", (3,), is_integer=False).key == "weight"
    assert layout_of_other("weight", (3,), is_integer=False).key == "weight"
