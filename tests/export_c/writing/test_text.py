"""Programs as C text."""

from pathlib import Path

import pytest
import torch
from tests.export_c.integers import check_same
from tests.export_c.networks import unet_program
from tests.export_c.running import compare
from torch import Tensor, nn

from tailcut.export_c.writing.text import features, write_program


def test_the_text_says_what_is_used() -> None:
    program = unet_program()
    text = write_program(program, "small", "a comment")
    assert f"#define SMALL_ARENA_BYTES {4 * program.arena_floats}u" in text.header
    assert f"#define SMALL_PREPARED_BYTES {4 * program.prepared_floats}u" in text.header
    assert "1 x 3" not in text.header
    assert "const tailcut_model small" in text.source
    assert text.flash["coefficients"] == 4 * (12 * 33 + 16)  # of float32
    used = features(program)
    assert "#define TAILCUT_HAS_STATS 1" in used
    assert "#define TAILCUT_HAS_UP 1" in used
    assert "#define TAILCUT_HAS_GELU 0" in used


def test_names_cannot_end_a_comment(tmp_path: Path) -> None:
    model = nn.Sequential()
    model.add_module("conv*/bn", nn.Linear(4, 3))
    model.add_module("a??/", nn.Linear(3, 2))
    difference, _ = compare(model.eval(), tmp_path, example_input=torch.rand(1, 4))
    assert difference < 1e-5


class Linear(nn.Module):
    """A layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


@pytest.mark.parametrize("name", ["A*/B", "A??/", "A/*B"])
def test_names_of_classes_cannot_end_a_comment(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = type(name, (Linear,), {})().eval()
    difference, _ = compare(model, tmp_path / "floats", example_input=torch.rand(1, 4))
    assert difference < 1e-5
    check_same(model, tmp_path / "integers", example_input=torch.rand(1, 4))


def test_names_of_layers_cannot_end_a_comment_in_integers(tmp_path: Path) -> None:
    model = nn.Sequential()
    model.add_module("conv*/bn", nn.Linear(4, 3))
    check_same(model.eval(), tmp_path, example_input=torch.rand(1, 4))
