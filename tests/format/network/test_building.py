import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.format.networks import OwnNet, registered
from torch import nn

import tailcut
from tailcut.errors import CorruptFileError, LimitError, ModelMismatchError
from tailcut.format.container.contents import StoredBase
from tailcut.format.network.building import build_for_real, build_on_meta, materialize, named_base, needs_real_tensors
from tailcut.structure import Base

MOST = 1 << 30


class Deep(nn.Module):
    """As deep and wide as it is asked to be."""

    def __init__(self, *, depth: int = 1, width: int = 2, fails: str = "") -> None:
        super().__init__()
        if fails:
            raise {"key": KeyError, "assert": AssertionError, "zero": ZeroDivisionError}[fails]("hostile")
        self.layers = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))


def deep(*arguments: tuple[int, Any], most: int = MOST) -> nn.Module:
    with registered("deep", Deep):
        return build_on_meta(StoredBase("deep", arguments), most)


def test_nothing_takes_memory() -> None:
    model = deep((1, 1 << 15), most=1 << 31)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    "arguments", [((0, 1 << 24),), ((0, 1 << 24), (1, 1)), ((1, 1 << 24),), ((0, 9), (1, 1 << 14))]
)
def test_building_stops_at_the_caps(arguments: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(LimitError, match=r"numbers or more, at most|more than 16384 tensors"):
        deep(*arguments)


def test_the_cap_is_exact() -> None:
    assert deep((0, 3), (1, 4), most=60)
    with pytest.raises(LimitError, match="has 60 numbers or more, at most 59 are allowed"):
        deep((0, 3), (1, 4), most=59)


def test_other_threads_may_build_meanwhile() -> None:
    """The count is of this thread's parameters only."""
    built = threading.Event()

    def build_more() -> None:
        nn.Linear(50, 50)
        built.set()

    class Waiting(nn.Module):
        def __init__(self, *, width: int = 2) -> None:
            super().__init__()
            other = threading.Thread(target=build_more)
            other.start()
            other.join()
            self.own = nn.Linear(width, width)

    with registered("waiting", Waiting):
        assert build_on_meta(StoredBase("waiting", ()), 6)
    assert built.is_set()


def test_no_hook_is_left_behind() -> None:
    with pytest.raises(LimitError):
        deep((0, 100), most=5)
    assert nn.Linear(100, 100)


@pytest.mark.parametrize("fails", ["key", "assert", "zero"])
def test_whatever_a_family_raises_is_a_damaged_file(fails: str) -> None:
    with pytest.raises(CorruptFileError, match=r"'deep' cannot be built with the stored arguments: .*hostile"):
        deep((2, fails))


def test_arguments_are_checked_against_the_signature() -> None:
    for arguments in [((0, 1.5),), ((0, True),), ((0, (1,)),), ((2, 3),), ((0, 1 << 62),), ((1, -(1 << 62)),)]:
        with pytest.raises(CorruptFileError, match="cannot be built with the stored arguments"):
            deep(*arguments)
    with pytest.raises(ModelMismatchError, match=r"argument number 3 of model 'deep', which has 3 here; .* newer"):
        deep((3, 1))
    with pytest.raises(ModelMismatchError, match=r"names the model 'shallow'.*: import the mod.*registered: .*lenet5"):
        named_base(StoredBase("shallow", ()))
    assert named_base(StoredBase("lenet300", ((1, 3),))) == Base("lenet300", {"num_classes": 3})


def test_lazy_networks_are_refused() -> None:
    class Lazy(nn.Module):
        def __init__(self, *, width: int = 2) -> None:
            super().__init__()
            self.fc = nn.LazyLinear(width)

    with registered("lazy", Lazy), pytest.raises(CorruptFileError, match="no shape before a first forward"):
        build_on_meta(StoredBase("lazy", ()), MOST)


def test_real_tensors_are_needed_for_constants_only() -> None:
    with torch.device("meta"):
        assert not needs_real_tensors(tailcut.create_model("unet", widths=(2, 3)))
        assert not needs_real_tensors(nn.MultiheadAttention(4, 2))
        assert needs_real_tensors(OwnNet())
        for value in (torch.ones(2), [torch.ones(2)], {"a": (1, {"b": torch.ones(1)})}):
            model = nn.Linear(2, 2)
            model.constant = value  # type: ignore[assignment]
            assert needs_real_tensors(model)


def test_materialize_keeps_ties_and_flags() -> None:
    with torch.device("meta"):
        model = OwnNet()
        model.first.bias.requires_grad_(False)
    assert materialize(model, torch.device("cpu")) is model
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert model.head.weight is model.embedding.weight
    assert not model.first.bias.requires_grad
    assert isinstance(model.first.bias, nn.Parameter)
    assert [parameter.shape for parameter in model.parameters()] == [p.shape for p in OwnNet().parameters()]


def test_building_for_real_leaves_the_random_state() -> None:
    state = torch.random.get_rng_state()
    assert not build_for_real(Base("lenet300", {})).get_parameter("fc1.weight").is_meta
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_networks_of_files_are_in_float32_whatever_the_default_is(default: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tailcut.create_model("unet", widths=(8, 16))
    tailcut.save(model, tmp_path / "a.tailcut")
    torch.set_default_dtype(default)
    try:
        loaded = tailcut.load(tmp_path / "a.tailcut")
        assert torch.get_default_dtype() == default
    finally:
        torch.set_default_dtype(torch.float32)
    values = loaded.state_dict()
    assert all(
        torch.equal(value, values[name]) and value.dtype == values[name].dtype
        for name, value in model.state_dict().items()
    )
