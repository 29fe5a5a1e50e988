"""Operations that are others in one, in C and as integers, against torch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.export_c.integers import check_same
from tests.export_c.lowering.many import Many, compare_all
from tests.export_c.networks import lively
from torch import Tensor, nn
from torch.nn import functional

from tailcut.errors import StructureError
from tailcut.export_c.export import export_c
from tailcut.export_c.lowering.graph import op_name
from tailcut.export_c.lowering.other_forms import write_out_forms

CLOSE = 1e-5
SHAPE = (3, 8, 7)
BOUNDS, WEIGHT, BIAS = (
    torch.linspace(-0.5, 0.5, 4).reshape(4, 1, 1),
    torch.linspace(-1, 1, 20).reshape(4, 5),
    torch.ones(5),
)

FORMS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x.narrow(1, 1, 2),
    lambda x: x.narrow(-1, 2, 3),
    lambda x: x.mean((2, 3)) @ WEIGHT.to(x),
    lambda x: torch.mm(x.mean((2, 3)).relu(), WEIGHT.to(x)),
    lambda x: torch.addmm(BIAS.to(x), x.mean((2, 3)), WEIGHT.to(x)),
    lambda x: torch.lerp(x, x.relu(), 0.3),
    lambda x: torch.lerp(x, x.relu(), BOUNDS.to(x)),
    lambda x: torch.addcmul(x, x.sigmoid(), x.relu(), value=0.5),
    lambda x: torch.addcmul(x, x.sigmoid(), x.relu()),
    lambda x: torch.maximum(x, BOUNDS.to(x)),
    lambda x: torch.minimum(BOUNDS.to(x), x),
    lambda x: torch.maximum(x, torch.tensor(0.1, dtype=x.dtype)),
    lambda x: x.clamp(min=BOUNDS.to(x)),
    lambda x: x.clamp(-BOUNDS.to(x).abs(), BOUNDS.to(x).abs()),
    lambda x: x.repeat(1, 2, 1, 3),
    lambda x: functional.interpolate(x, scale_factor=(2, 3), mode="nearest-exact"),
    lambda x: x.mean((1, 2, 3), keepdim=True),
    lambda x: x.sum((-1, 2, 1), keepdim=True),
    lambda x: functional.softshrink(x, 0.2),
    lambda x: x.unbind(1)[2][:, None] + x[:, 1:2],
    lambda x: torch.cat([part[:, None] for part in x.unbind(1)[::-1]], 1),
]


def test_they_are_what_torch_computes(tmp_path: Path) -> None:
    assert compare_all(tmp_path / "c", nn.Conv2d(3, 4, 3, padding=1), SHAPE, FORMS) < CLOSE


def test_they_have_the_same_bits_as_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = lively(Many(nn.Conv2d(3, 4, 3, padding=1), FORMS))
    check_same(model, tmp_path / "c", example_input=torch.rand(1, *SHAPE))


def test_tokens_times_a_matrix(tmp_path: Path) -> None:
    """As layers of one's own have it: x @ weight + bias, of each token."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            tokens: Tensor = x.flatten(2).transpose(1, 2) @ self.weight + self.bias
            return tokens.relu().mean(1)

    torch.manual_seed(0)
    assert compare_all(tmp_path / "c", nn.Conv2d(3, 4, 3), SHAPE, [Layer()]) < CLOSE


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: functional.interpolate(x, size=(13, 11), mode="nearest-exact"), "_upsample_nearest_exact2d"),
        (lambda x: torch.addmm(BIAS, x.mean((2, 3)), WEIGHT, beta=2), "addmm"),
        (lambda x: x.mean((2, 3)).T @ x.mean((2, 3)), "permute|matmul|transpose|numpy_T"),
        (lambda x: x.clamp(x.relu(), x.abs()), "clamp"),
        (lambda x: x.repeat(2, 1, 1, 1), "repeat"),
    ],
)
def test_what_has_no_other_form_is_named_as_the_user_wrote_it(
    function: Callable[[Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    with pytest.raises(StructureError, match=message):
        export_c(Many(nn.Conv2d(3, 4, 3), [function]), tmp_path / "c", example_input=torch.rand(1, *SHAPE))


def test_nothing_is_left_of_them_in_the_graph() -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(function(x) for function in FORMS)

    traced = torch.export.export(Own(), (torch.rand(1, 4, 8, 7),))
    constants = {*traced.graph_signature.inputs_to_lifted_tensor_constants}
    write_out_forms(traced.graph, constants)
    traced.graph.lint()
    names = {op_name(node.target) for node in traced.graph.nodes if node.op == "call_function"}
    left = {
        "addcmul",
        "addmm",
        "lerp",
        "matmul",
        "maximum",
        "minimum",
        "mm",
        "narrow",
        "repeat",
        "softshrink",
        "unbind",
    }
    assert not left & names
    assert "_upsample_nearest_exact2d" not in names
