import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import tailcut
from tailcut.errors import ArgumentError
from tailcut.format import fingerprint, load, save
from tailcut.structure import create_model, set_class_names


@pytest.fixture
def model() -> nn.Module:
    model = create_model("lenet300")
    tailcut.regularize(model, num_kept=100)
    return model


def test_it_is_that_of_the_network_in_the_file(model: nn.Module, tmp_path: Path) -> None:
    save(model, tmp_path / "a.tailcut", metadata={"note": "any"})
    assert fingerprint(load(tmp_path / "a.tailcut")) == fingerprint(model) == fingerprint(copy.deepcopy(model))
    set_class_names(model, [f"digit {number}" for number in range(10)])
    save(model, tmp_path / "b.tailcut")
    assert fingerprint(load(tmp_path / "b.tailcut")) == fingerprint(model) == fingerprint(load(tmp_path / "a.tailcut"))


def test_each_number_and_each_shape_counts(model: nn.Module) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(iter(other.parameters())).view(-1)[-1] += 1e-6
    cut = copy.deepcopy(model)
    tailcut.TailTruncation(cut, num_kept=99).finish()
    assert len({fingerprint(network) for network in (model, other, cut)}) == 3


@pytest.mark.parametrize(
    ("one", "two"), [(nn.Linear(2, 3), nn.Linear(3, 2)), (nn.Linear(2, 3), nn.Linear(2, 3).half())]
)
def test_shape_and_type_count_of_equal_bytes(one: nn.Module, two: nn.Module) -> None:
    for module in (one, two):
        nn.init.zeros_(module.weight)  # type: ignore[arg-type]
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    assert fingerprint(one) != fingerprint(two)


def test_a_network_without_tensors_and_scalars_have_one() -> None:
    norm = nn.BatchNorm2d(2)
    before = fingerprint(norm)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    assert len({fingerprint(nn.ReLU()), before, fingerprint(norm)}) == 3


def test_a_network_that_waits_for_a_first_forward_is_reported() -> None:
    with pytest.raises(ArgumentError, match="0\\.weight is not initialised yet: run one forward first"):
        fingerprint(nn.Sequential(nn.LazyLinear(3)))
