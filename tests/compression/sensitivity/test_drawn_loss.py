"""Which outputs count, and along which axis their classes lie."""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tailcut.compression.sensitivity.drawn_loss import drawn_loss, features_of, logits_of
from tailcut.compression.sensitivity.fisher import measure_sensitivity
from tailcut.errors import ArgumentError
from tailcut.model_inputs import ModelInputs

A, B, C = torch.rand(4, 6), torch.rand(4, 6), torch.rand(4, 2)


@dataclass
class Spans:
    start_logits: Tensor
    end_logits: Tensor
    hidden: Tensor


Heads = namedtuple("Heads", ["classes_logits", "boxes"])


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (A, [A]),
        ([A], [A]),
        ({"a": A}, [A]),
        ({"scores": A, "best": A.argmax(1)}, [A]),
        ((A.sum(), A), [A]),
        ({"logits": A, "other_logits": B}, [A]),
        ({"start_logits": A, "end_logits": B, "state": C}, [A, B]),
        ({"logits_per_image": A, "logits_per_text": A.T, "embeddings": C}, [A, A.T]),
        (Spans(A, B, C), [A, B]),
        (Heads(A, C), [A]),
    ],
)
def test_outputs_named_logits_count(outputs: Any, expected: list[Tensor]) -> None:
    found = logits_of(outputs)
    assert len(found) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("outputs", "what"),
    [
        (
            {"a": A, "b": C},
            r"a dict of several tensors, none of them named logits: a \(4, 6\), b \(4, 2\)\. Give loss=",
        ),
        ((A, C), r"a tuple of several tensors, none of them named logits: \(4, 6\), \(4, 2\)\. Give loss="),
    ],
)
def test_several_without_such_a_name_are_an_error(outputs: Any, what: str) -> None:
    with pytest.raises(ArgumentError, match=what):
        logits_of(outputs)


def test_their_losses_are_added() -> None:
    both: Any = {"start_logits": A.requires_grad_(), "end_logits": B}
    found = drawn_loss(ModelInputs((A,)), both, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.multinomial(functional.softmax(x, 1), 1, generator=generator)[:, 0] for x in (A, B)]
    expected = sum(
        functional.cross_entropy(x, labels, reduction="sum") for x, labels in zip((A, B), drawn, strict=True)
    )
    assert torch.equal(found, torch.as_tensor(expected))


def test_whole_numbers_have_no_gradient() -> None:
    with pytest.raises(ArgumentError, match="outputs are of type int64, which have no gradient"):
        drawn_loss(ModelInputs((A,)), A.argmax(1), torch.Generator())


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_padding_does_not_count(dtype: torch.dtype) -> None:
    """Of a batch that is padded the loss is that of its sequences alone, whatever the network makes of the padding."""
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    logits = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0))
    padded = ModelInputs(kwargs={"input_ids": torch.zeros(2, 5).long(), "attention_mask": mask.to(dtype)})
    alone = ModelInputs((torch.zeros(1, 7).long(),))
    for outputs in (logits, logits[..., :1]):  # classes, and one number a token
        found = drawn_loss(padded, outputs, torch.Generator().manual_seed(0))
        real = torch.cat([outputs[0], outputs[1, :2]])[None]
        assert torch.equal(found, drawn_loss(alone, real, torch.Generator().manual_seed(0)))


class Frames(nn.Module):
    """Classes of each frame of a sound: (batch, frames, 5) to (batch, frames, 3)."""

    def __init__(self, after: Callable[[Tensor], Any] = lambda y: y) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.head, self.after = nn.Linear(5, 8), nn.Linear(8, 3), after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.head(torch.relu(self.wide(x))))


def test_the_classes_of_a_linear_layer_lie_along_the_last_axis() -> None:
    x = torch.rand(32, 7, 5, generator=torch.Generator().manual_seed(0))
    expected = measure_sensitivity(Frames(lambda y: y.movedim(2, 1)), x, num_gradients=40).curvature
    for after in (lambda y: y, lambda y: y.log_softmax(2), lambda y: {"logits": y, "hidden": y}):
        found = measure_sensitivity(Frames(after), x, num_gradients=40).curvature
        assert found == pytest.approx(expected, rel=1e-3)
    assert expected["head.bias"] > 0.1  # along the frames, a bias would change nothing


def test_the_classes_of_a_convolution_lie_along_axis_1() -> None:
    x = torch.rand(2, 5, 7)
    batch = ModelInputs((x,))
    assert features_of(nn.Sequential(nn.Conv1d(5, 7, 1), nn.ReLU()), batch) == (False,)
    assert features_of(nn.Sequential(nn.Linear(7, 7), nn.Conv1d(5, 5, 1)), batch) == (False,)
    assert features_of(nn.Sequential(nn.Conv1d(5, 5, 1), nn.Linear(7, 7)), batch) == (True,)


class Rays(nn.Module):
    """Colour and density of the points of rays, of two linear layers, as NeRF has them: (rays, points, 4)."""

    def __init__(self, flat: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.flat, self.wide, self.density, self.colour = flat, nn.Linear(5, 8), nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.wide(x.flatten(0, 1) if self.flat else x))
        return torch.cat([self.colour(y), self.density(y)], -1).view(*x.shape[:2], 4)


@pytest.mark.parametrize("flat", [False, True])
def test_the_outputs_of_several_linear_layers_are_put_together_along_the_last_axis(flat: bool) -> None:
    """Taken for classes along axis 1, of the points, a last bias changed no loss, and `compress` rounded it to zero."""
    x = torch.rand(32, 7, 5, generator=torch.Generator().manual_seed(0))
    found = measure_sensitivity(Rays(flat), x, num_gradients=40).curvature
    assert min(found["colour.bias"], found["density.bias"]) > 0.1


def test_the_axis_of_outputs_that_no_layer_gave_is_that_of_the_layers_with_their_positions() -> None:
    class Ends(nn.Module):
        def __init__(self, layers: nn.Module, ends: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.layers, self.ends = layers, ends

        def forward(self, x: Tensor) -> Tensor:
            return self.ends(self.layers(x))

    def linear(x: Tensor, ends: Callable[[Tensor], Tensor], *layers: nn.Module) -> bool:
        return features_of(Ends(nn.Sequential(*layers), ends), ModelInputs((x,)))[0]

    tokens, flat, signal = torch.rand(2, 5, 7), torch.rand(6, 7), torch.rand(2, 1, 7)
    assert linear(tokens, lambda y: y[..., 1:], nn.Linear(7, 4))
    assert linear(flat, lambda y: y.view(2, 3, 4), nn.Linear(7, 4))
    assert linear(signal, lambda y: y.view(2, 3, 4), nn.Conv1d(1, 3, 1), nn.Flatten(0, 1), nn.Linear(7, 4))
    assert not linear(tokens, lambda y: y[:, 1:], nn.Conv1d(5, 4, 1))
    assert not linear(tokens, lambda y: y[:, 1:], nn.Linear(7, 7), nn.Conv1d(5, 4, 1))
    assert not linear(tokens, lambda y: y.mT, nn.Linear(7, 4))
    assert not linear(flat, lambda y: y[:, None], nn.Linear(7, 4))  # a signal of one channel
    assert not linear(signal, lambda y: y.repeat_interleave(2, 2), nn.Conv1d(1, 3, 1))


@pytest.mark.parametrize("module", ["torch_geometric.nn.dense.linear", "transformers.pytorch_utils"])
def test_linear_layers_of_other_libraries_have_their_classes_last(module: str) -> None:
    name = "Linear" if "geometric" in module else "Conv1D"
    kind = type(name, (nn.Module,), {"__module__": module, "__qualname__": name, "forward": lambda self, x: x @ self.w})
    layer = kind()
    layer.w = nn.Parameter(torch.rand(5, 7))
    assert features_of(layer, ModelInputs((torch.rand(2, 7, 5),))) == (True,)
