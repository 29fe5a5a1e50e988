from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tailcut
from tailcut.errors import ArgumentError
from tailcut.structure import source_of, view_in, without_views
from tailcut.structure.views import unwrap


class Head(nn.Sequential):
    name = "head"


def made() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), Head(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)), nn.Linear(64, 4))


def with_fused_parts(num_kept: int = 30) -> tuple[Any, Any]:
    """A regularised network, and the same with two parts of one part fused."""
    model = made()
    tailcut.regularize(model, num_kept=num_kept)
    other = made()
    tailcut.regularize(other, num_kept=num_kept)
    other[1][0] = tailcut.fuse(other[1][0])
    other[1] = tailcut.fuse(other[1])
    return model, other


X = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


def test_a_network_without_views_is_itself() -> None:
    model = made()
    assert without_views(model) is model
    assert view_in(model) is None
    assert without_views(tailcut.fuse(model)) is model
    assert source_of(tailcut.fuse(model)) is model


def test_parts_are_in_the_places_of_their_views_and_nothing_is_copied() -> None:
    model, fused = with_fused_parts()
    assert view_in(fused) == "1"
    parts = list(fused.modules())
    plain: Any = without_views(fused)
    assert list(plain.state_dict()) == list(model.state_dict())
    assert type(plain[1]) is Head
    assert [id(one) for one in plain.parameters()] == [id(one) for one in fused.parameters()]
    torch.testing.assert_close(plain(X), model(X))
    assert [id(part) for part in fused.modules()] == list(map(id, parts))


def test_files_and_dense_copies_of_a_network_with_fused_parts_are_those_of_the_network(tmp_path: Path) -> None:
    model, fused = with_fused_parts()
    tailcut.save(model, tmp_path / "plain.tailcut")
    tailcut.save(fused, tmp_path / "fused.tailcut")
    assert (tmp_path / "fused.tailcut").read_bytes() == (tmp_path / "plain.tailcut").read_bytes()
    dense, expected = tailcut.to_dense(fused), tailcut.to_dense(model)
    assert [type(part) for part in dense.modules()] == [type(part) for part in made().modules()]
    for (name, value), (other, right) in zip(dense.state_dict().items(), expected.state_dict().items(), strict=True):
        assert name == other
        torch.testing.assert_close(value, right)


def test_a_network_with_fused_parts_runs_as_it_is() -> None:
    model, fused = with_fused_parts(8)
    whole = tailcut.fuse(fused)
    whole.strategy = "low_rank"
    torch.testing.assert_close(whole(X), model(X))
    assert [layer.name for layer in whole.report().layers] == ["0", "1.source.0.source", "1.source.2", "2"]
    assert {layer.reason for layer in whole.report().layers} == {"'1' is a fused network itself"}


def test_what_needs_the_network_itself_says_so(tmp_path: Path) -> None:
    model, _ = with_fused_parts()
    tailcut.save(model, tmp_path / "plain.tailcut")
    fresh: Any = nn.Sequential(tailcut.fuse(made()))
    with pytest.raises(ArgumentError, match="0 is a FusedNetwork, which only runs another network"):
        tailcut.regularize(fresh, num_kept=8)
    with pytest.raises(ArgumentError, match=r"fused view in it \(0\): load into the network first, then fuse"):
        tailcut.load(tmp_path / "plain.tailcut", into=fresh)


def test_the_network_inside_wrappers_and_its_path() -> None:
    model = made()
    compiled = nn.Module()
    compiled.add_module("_orig_mod", model)  # as the class of torch.compile has it
    assert unwrap(model) == (model, "")
    assert unwrap(nn.DataParallel(nn.DataParallel(model))) == (model, ".module.module")
    assert unwrap(nn.DataParallel(compiled)) == (model, ".module._orig_mod")
    assert unwrap(tailcut.fuse(model.eval())) == (model, "")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_network_of_torchscript_is_refused_in_one_line() -> None:
    traced = torch.jit.trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval(), torch.zeros(1, 3, 8, 8))
    images = torch.zeros(2, 3, 8, 8)
    for call in (
        lambda: tailcut.channels.score(traced, [images]),
        lambda: tailcut.channels.recalibrate(traced, [images]),
        lambda: tailcut.prune(traced, images, {"0": torch.arange(8.0)}, rates=0.5),
    ):
        with pytest.raises(ArgumentError, match="is of TorchScript: give"):
            call()
    assert unwrap(nn.DataParallel(traced)) == (traced, ".module")


def test_a_traced_network_may_have_fused_parts(tmp_path: Path) -> None:
    model, traced = made(), torch.fx.symbolic_trace(made())
    tailcut.regularize(model, num_kept=30)
    tailcut.regularize(traced, num_kept=30)
    traced._modules["0"] = tailcut.fuse(traced.get_submodule("0"))
    torch.testing.assert_close(without_views(traced)(X), model(X))
    tailcut.save(traced, tmp_path / "traced.tailcut")
    torch.testing.assert_close(tailcut.load(tmp_path / "traced.tailcut", into=made())(X), model(X))
