"""Networks of which the wrong axes, maps or numbers are easily read. The oracle is torch, or one clear refusal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.export_c.running import compare
from torch import Tensor, nn
from torch.nn import functional

from tailcut.errors import StructureError
from tailcut.export_c.export import export_c

CLOSE = 2e-5


class Then(nn.Module):
    """Layers, and functions that read them."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers, self.function = nn.ModuleList(layers), function
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1, 1)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.layers)


def norm(channels: int, **settings: Any) -> nn.Module:
    return nn.InstanceNorm2d(channels, affine=True, **settings)


def difference(model: nn.Module, folder: Path, shape: tuple[int, ...]) -> float:
    return compare(model.eval(), folder, example_input=torch.rand(1, *shape))[0]


MEASURED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "unshuffled": (lambda: Then(lambda x, n: n(functional.pixel_unshuffle(x, 2)), norm(12)), (3, 8, 8)),
    "turned": (
        lambda: Then(lambda x, c, n: n(c(x).transpose(1, 2)), nn.Conv2d(3, 8, 3), norm(6)),
        (3, 8, 8),
    ),
    "padded": (
        lambda: Then(lambda x, c, n: n(functional.pad(c(x), (1, 0, 1, 0))), nn.Conv2d(3, 8, 3), norm(8)),
        (3, 8, 8),
    ),
    "a first half": (lambda: Then(lambda x, c, n: n(c(x).chunk(2, 1)[0]), nn.Conv2d(3, 8, 3), norm(4)), (3, 8, 8)),
    "a second half": (lambda: Then(lambda x, c, n: n(c(x).chunk(2, 1)[1]), nn.Conv2d(3, 8, 3), norm(4)), (3, 8, 8)),
    "both halves": (
        lambda: Then(
            lambda x, c, n: torch.cat([n(c(x).chunk(2, 1)[0]), c(x).chunk(2, 1)[1]], 1), nn.Conv2d(3, 8, 3), norm(4)
        ),
        (3, 8, 8),
    ),
    "after a norm of groups": (
        lambda: Then(lambda x, g, n: n(g(x)), nn.GroupNorm(2, 4, eps=1.0, affine=False), norm(4)),
        (4, 6, 6),
    ),
    "after a recurrent layer": (
        lambda: Then(
            lambda x, g, n: n(g(x.transpose(1, 2))[0].transpose(1, 2)),
            nn.GRU(3, 8, batch_first=True),
            nn.InstanceNorm1d(8, affine=True),
        ),
        (3, 12),
    ),
}


@pytest.mark.parametrize("name", MEASURED)
def test_statistics_are_those_of_the_whole_map(name: str, tmp_path: Path) -> None:
    make, shape = MEASURED[name]
    assert difference(make(), tmp_path, shape) < CLOSE


SEEN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "features as a map with the channels last": (
        lambda: Then(
            lambda x, f, c: c(f(x).view(1, 2, 3, 4).permute(0, 3, 1, 2)), nn.Linear(5, 24), nn.Conv2d(4, 3, 1)
        ),
        (5,),
    ),
    "features as steps": (
        lambda: Then(lambda x, f, g: g(f(x).view(1, 5, 6)), nn.Linear(5, 30), nn.Linear(6, 4)),
        (5,),
    ),
    "features as steps of a recurrent layer": (
        lambda: Then(lambda x, f, g: g(f(x).view(1, 5, 6))[0], nn.Linear(5, 30), nn.GRU(6, 4, batch_first=True)),
        (5,),
    ),
    "rows and channels": (
        lambda: Then(lambda x, c: functional.layer_norm(c(x).permute(0, 2, 3, 1), (6, 4)), nn.Conv2d(3, 4, 1)),
        (3, 5, 6),
    ),
    "a mean of a permuted map": (
        lambda: Then(lambda x, c: c(x).permute(0, 2, 3, 1).flatten(2).mean(2), nn.Conv2d(3, 8, 1)),
        (3, 8, 8),
    ),
    "two means of a permuted map": (
        lambda: Then(lambda x, c: c(x).permute(0, 2, 3, 1).mean(2).mean(2), nn.Conv2d(3, 8, 1)),
        (3, 8, 8),
    ),
    "a nearest enlargement": (
        lambda: Then(lambda x, c: functional.interpolate(c(x), size=(46, 74)), nn.Conv2d(3, 2, 1)),
        (3, 14, 6),
    ),
    "a nearest enlargement by a whole factor": (
        lambda: Then(lambda x, c: functional.interpolate(c(x), scale_factor=3), nn.Conv2d(3, 2, 1)),
        (3, 14, 6),
    ),
    "many factors of a slice": (lambda: Then(ninth_power, nn.Conv2d(3, 8, 1)), (3, 8, 8)),
}


def ninth_power(x: Tensor, layer: nn.Module) -> Tensor:
    y = x = layer(x)
    for _ in range(8):
        y = y * x
    largest: Tensor = y[:, 2:6].amax(2, keepdim=True)
    return largest


REFUSED = {"rows and channels", "a mean of a permuted map", "two means of a permuted map", "a nearest enlargement"}


@pytest.mark.parametrize("name", SEEN)
def test_axes_are_read_as_they_are_given(name: str, tmp_path: Path) -> None:
    make, shape = SEEN[name]
    model, x = make().eval(), torch.rand(1, *shape)
    if name in REFUSED:
        with pytest.raises(StructureError):
            export_c(model, tmp_path / "c", example_input=x)
    else:
        assert difference(model, tmp_path, shape) < CLOSE


def test_dropout_that_is_always_on_is_refused(tmp_path: Path) -> None:
    model = Then(lambda x, c: functional.dropout(c(x), 0.5), nn.Conv2d(3, 4, 1)).eval()
    with pytest.raises(StructureError, match="active in evaluation too"):
        export_c(model, tmp_path / "c", example_input=torch.rand(1, 3, 6, 6))
    off = Then(lambda x, c: functional.dropout(c(x), 0.5, training=False), nn.Conv2d(3, 4, 1)).eval()
    assert difference(off, tmp_path, (3, 6, 6)) < CLOSE


class NamedAsAnOperation(nn.Module):
    """A parameter has the name of the operation that computes another weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mul, self.b = nn.Parameter(torch.rand(6, 6)), nn.Parameter(torch.rand(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(functional.linear(x, self.mul), self.b * 2)


def test_a_parameter_may_have_the_name_of_an_operation(tmp_path: Path) -> None:
    assert difference(NamedAsAnOperation(), tmp_path, (6,)) < CLOSE


class Reread(nn.Module):
    """Tokens, and their numbers in another order: a view of the same memory."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of each token."""
        first, *behind = self.layers
        x = first(x)
        x = x[0] if isinstance(x, tuple) else x
        y = x.flatten(1).view(1, x.shape[2], x.shape[1]).transpose(1, 2)
        x = x + y
        for layer in behind:
            x = layer(x)
        return x


class Attending(nn.Module):
    """Attention of each token to all, and what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        mixed: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return x + mixed


VIEWED: dict[str, Callable[[], nn.Module]] = {
    "recurrent": lambda: Reread(nn.GRU(8, 8, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 8)),
    "linear": lambda: Reread(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)),
    "normalised": lambda: Reread(
        nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8, elementwise_affine=False)), nn.Linear(8, 8), nn.Linear(8, 8)
    ),
    "attending": lambda: Reread(
        nn.Sequential(nn.Linear(8, 8), Attending()), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 8)
    ),
}


@pytest.mark.parametrize("name", VIEWED)
def test_a_map_is_not_overwritten_while_a_view_of_it_is_read(name: str, tmp_path: Path) -> None:
    assert difference(VIEWED[name](), tmp_path, (6, 8)) < CLOSE
