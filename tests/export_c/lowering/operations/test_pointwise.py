"""Sums and products: of values that are read several times, and of features with one number."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.export_c.integers import check_same
from tests.export_c.lowering.many import With, compare_all
from tests.export_c.running import compare
from torch import Tensor, nn
from torch.nn import functional

from tailcut.errors import StructureError
from tailcut.export_c.export import export_c
from tailcut.export_c.lowering.lowering import MAX_REPEATED_OPS
from tailcut.export_c.lowering.operations import pointwise

CLOSE = 1e-5
STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "functions": lambda x: (x * 1.01).tanh() + x.sigmoid() * x,
    "products": lambda x: (x * x).tanh(),
    "squares": lambda x: (x**2 - x.square()).tanh() + x / 2,
    "larger ones": lambda x: torch.maximum(x * 2, x.tanh()) - torch.minimum(x, x.sigmoid()),
    "parts": lambda x: torch.cat([part * part.tanh() for part in x.chunk(3, 1)], 1),
    "gates": lambda x: functional.glu(torch.cat([x, x.tanh()], 1), 1),
}


class Repeated(nn.Module):
    """A step, several times."""

    def __init__(self, step: Callable[[Tensor], Tensor], count: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(2, 3, 3)
        self.step, self.count = step, count

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        for _ in range(self.count):
            x = self.step(x)
        return x


@pytest.mark.parametrize("name", STEPS)
def test_a_program_grows_with_the_steps_alone(name: str, tmp_path: Path) -> None:
    """What is read twice by each step is not written out 2^20 times."""
    example = torch.rand(1, 2, 6, 6)
    sizes = [
        export_c(Repeated(STEPS[name], count).eval(), tmp_path, example_input=example).flash_bytes["program"]
        for count in (10, 20)
    ]
    assert sizes[1] < 2.2 * sizes[0]
    assert sizes[1] < 20 * 900
    report = export_c(Repeated(STEPS[name], 20).eval(), tmp_path, example_input=example)
    assert report.arena_bytes < 1_000  # what is stored is not kept for longer than the next step


def test_repeated_steps_give_the_outputs_of_torch(tmp_path: Path) -> None:
    difference, _ = compare(Repeated(STEPS["functions"], 12).eval(), tmp_path, example_input=torch.rand(1, 2, 6, 6))
    assert difference < CLOSE


def test_a_sum_that_is_read_twice_is_not_stored(tmp_path: Path) -> None:
    """A residual block's: what is made again is less than what memory would cost."""

    def block(x: Tensor) -> Tensor:
        x = torch.relu(x * 2 + x)
        return x + functional.max_pool2d(x, 3, 1, 1)

    assert MAX_REPEATED_OPS > 3
    report = export_c(Repeated(block, 1).eval(), tmp_path, example_input=torch.rand(1, 2, 6, 6))
    source = (tmp_path / "model.c").read_text()
    assert source.count(".kind = TAILCUT_STORE") == 1  # the pooled map
    assert report.arena_bytes < 1_000


class Dueling(nn.Module):
    """One number beside features, each way."""

    def __init__(self) -> None:
        super().__init__()
        self.of_state, self.of_actions = nn.Linear(5, 1), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        value, actions = self.of_state(x), self.of_actions(x)
        outputs = value + actions - actions.mean(1, keepdim=True), value * actions, torch.maximum(value, actions)
        return *outputs, actions * actions.sum(1, keepdim=True), actions.mean(-1, keepdim=True)


def test_features_and_one_number(tmp_path: Path) -> None:
    torch.manual_seed(0)
    difference, _ = compare(Dueling().eval(), tmp_path / "floats", example_input=torch.rand(1, 5))
    assert difference < CLOSE
    check_same(Dueling().eval(), tmp_path / "integers", example_input=torch.rand(1, 5))


def test_a_row_of_means_that_is_given_out_keeps_its_axis(tmp_path: Path) -> None:
    """As the page says."""
    assert compare_all(tmp_path / "c", nn.Conv2d(3, 4, 3), (3, 8, 7), [lambda x: x.mean(2, keepdim=True)]) < CLOSE
    model = With(nn.Conv2d(3, 4, 3), lambda x, layer: layer(x).mean(2))
    with pytest.raises(StructureError, match=r"mean .*: of \(1, 4, 6, 5\) over the axes \[2\]"):
        export_c(model, tmp_path, example_input=torch.rand(1, 3, 8, 7))


def test_parts_of_flattened_maps_are_refused_with_what_to_do(tmp_path: Path) -> None:
    model = With(nn.Conv2d(3, 4, 3), lambda x, layer: layer(x).flatten(1)[:, :3])
    with pytest.raises(StructureError, match=r"a flattened map \(cut its channels before `flatten`\)"):
        export_c(model, tmp_path, example_input=torch.rand(1, 3, 8, 7))


def test_flattened_maps_of_other_orders_are_told_so(tmp_path: Path) -> None:
    model = With(nn.Conv2d(3, 4, 1), lambda x, layer: layer(x).flatten(1) + layer(x).permute(0, 2, 3, 1).flatten(1))
    with pytest.raises(StructureError, match=r"two maps of shape \(1, 64\) whose numbers lie in different orders; "):
        export_c(model, tmp_path, example_input=torch.rand(1, 3, 4, 4))


def test_a_quotient_that_is_rounded_is_refused(tmp_path: Path) -> None:
    model = With(nn.Conv2d(3, 4, 1), lambda x, layer: torch.div(layer(x), 2, rounding_mode="floor"))
    with pytest.raises(StructureError, match=r"div .*: a quotient with rounding_mode='floor'; C code divides without"):
        export_c(model, tmp_path, example_input=torch.rand(1, 3, 4, 4))


def test_each_has_its_name_in_place_too() -> None:
    assert {"add", "add_", "sub_", "mul_", "square_", "pow_", "maximum"} <= set(pointwise.HANDLERS)
