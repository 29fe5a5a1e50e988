"""Operations that are others in one, in C and as integers, against torch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.export_c.integers import check_same
from tests.export_c.lowering.many import Many, compare_all
from tests.export_c.networks import lively
from tests.export_c.running import compare
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
    lambda x: x.mean((2, 3), keepdim=True).squeeze_(3).squeeze_(2),
    lambda x: x * x.mean((2, 3)).sigmoid().unsqueeze_(2).unsqueeze_(3),
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


class Spectrogram(nn.Module):
    """A map whose rows are one in the end, and a layer along its columns."""

    def __init__(self, row: Callable[[Tensor], Tensor], permute: Callable[[Tensor], Tensor], layer: nn.Module) -> None:
        super().__init__()
        self.convolution, self.row, self.permute, self.layer = nn.Conv2d(3, 8, 3, padding=1), row, permute, layer

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.layer(self.permute(self.row(self.convolution(x))))
        result: Tensor = outputs if isinstance(outputs, Tensor) else outputs[0]
        return result


ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean(2),
    "mean, ReLU": lambda x: x.mean(2).relu(),
    "sum, dropout": lambda x: functional.dropout(x.sum(2), training=False),
    "largest": lambda x: x.amax(2),
    "smallest": lambda x: x.amin(-2),
    "largest, without places": lambda x: x.max(2)[0],
    "smallest, without places": lambda x: x.min(dim=-2).values,
    "largest, kept": lambda x: x.max(2, keepdim=True).values.squeeze(2),
    "kept and left out": lambda x: x.mean(2, keepdim=True).squeeze(2),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_map_becomes_a_sequence_for_recurrent_layers(row: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = lively(Spectrogram(row, lambda x: x.transpose(1, 2), nn.LSTM(8, 5, batch_first=True)))
    assert compare(model, tmp_path / "c", example_input=torch.rand(1, 3, 12, 10))[0] < CLOSE


def test_a_map_becomes_a_sequence_for_other_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    attention = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    for number, (permute, layer) in enumerate(
        [
            (lambda x: x.permute(0, 2, 1), nn.GRU(8, 5, batch_first=True)),
            (lambda x: x.permute(2, 0, 1), nn.GRU(8, 5)),
            (lambda x: x.transpose(1, 2), attention),
            (lambda x: x.transpose(1, 2), nn.Linear(8, 3)),
        ]
    ):
        model = lively(Spectrogram(ROWS["mean"], permute, layer))
        assert compare(model, tmp_path / str(number), example_input=torch.rand(1, 3, 12, 10))[0] < CLOSE


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
