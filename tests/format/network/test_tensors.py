import copy
import hashlib
from pathlib import Path

import pytest
import torch
from tests.format.networks import OwnNet
from torch import nn

import tailcut
from tailcut.errors import ArgumentError
from tailcut.format.container.contents import StoredOther
from tailcut.format.network.tensors import list_digest, meta_copy, network_tensors
from tailcut.structure import CoefficientLayout, record_of


def test_every_tensor_is_listed_once_in_the_order_of_the_state_dict() -> None:
    model = OwnNet()
    listed = network_tensors(model, [])
    assert listed.coefficients == []
    expected = [key for key in model.state_dict() if key != "head.weight"]
    assert [other.name for other in listed.others] == expected
    assert {other.name for other in listed.others if not other.is_parameter} == {
        key for key in expected if "norm." in key or "constants." in key
    } - {"norm.weight", "norm.bias"}
    assert listed.num_parameters() == sum(parameter.numel() for parameter in model.parameters())


def test_regularised_tensors_come_first_with_their_dense_shape() -> None:
    model = OwnNet()
    tailcut.regularize(model, num_kept=5, include=["conv.weight", "embedding.weight"])
    listed = network_tensors(model, record_of(model).edits)
    assert [(entry.name, entry.shape, entry.num_kept) for entry in listed.coefficients] == [
        ("embedding.weight", (11, 6), 5),
        ("conv.weight", (4, 6, 5), 5),
    ]
    assert listed.num_dense_of_kept() == 66 + 120
    assert list(listed.shapes())[:3] == ["embedding.weight", "conv.weight", "conv.bias"]
    assert all("parametrizations" not in other.name for other in listed.others)


def test_the_digest_is_that_of_the_text() -> None:
    kept = [CoefficientLayout("a.weight", (3, 4, 5), (0, 2), (1, 7), 9), CoefficientLayout("b", (), (), (), 1)]
    others = [StoredOther("c", (2, 0), True), StoredOther("d", (), False)]
    text = "a.weight 3,4,5 0,2 1,7\nb   \nc 2,0 p\nd  b\n"
    assert list_digest(kept, others) == hashlib.blake2b(text.encode(), digest_size=4).digest()


def test_the_digest_tells_names_shapes_axes_weights_and_kinds_apart() -> None:
    kept = CoefficientLayout("a", (3, 4), (0, 1), (1, 1), 2)
    digests = {
        list_digest([kept], [StoredOther("b", (2,), True)]),
        list_digest([kept._replace(name="c")], [StoredOther("b", (2,), True)]),
        list_digest([kept._replace(shape=(4, 3))], [StoredOther("b", (2,), True)]),
        list_digest([kept._replace(axes=(0,), order_weights=(1,))], [StoredOther("b", (2,), True)]),
        list_digest([kept._replace(order_weights=(1, 2))], [StoredOther("b", (2,), True)]),
        list_digest([kept], [StoredOther("b", (2,), False)]),
        list_digest([kept], [StoredOther("b", (3,), True)]),
        list_digest([kept], []),
    }
    assert len(digests) == 8
    assert list_digest([kept._replace(num_kept=7)], []) == list_digest([kept], [])


def test_meta_copy_has_shapes_and_ties_but_no_memory() -> None:
    model = OwnNet().double()
    model.first.weight.requires_grad_(False)
    copied = meta_copy(model)
    assert all(tensor.is_meta for tensor in (*copied.parameters(), *copied.buffers()))
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert copied.get_parameter("head.weight") is copied.get_parameter("embedding.weight")
    for key, value in model.state_dict(keep_vars=True).items():
        twin = copied.state_dict(keep_vars=True)[key]
        assert (twin.shape, twin.dtype, twin.requires_grad) == (value.shape, value.dtype, value.requires_grad)
    copied.first.out_features = 99  # type: ignore[union-attr]
    assert model.first.out_features == 6


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_meta_copy_of_weights_that_hooks_compute() -> None:
    layer = nn.utils.weight_norm(nn.Linear(8, 4))
    copied = meta_copy(nn.Sequential(layer)).get_submodule("0")
    assert vars(copied)["weight"].is_meta
    assert vars(copied)["weight"].shape == (4, 8)
    assert all(tensor.is_meta for tensor in copied.parameters())
    assert not layer.weight.is_meta


class Hiding(nn.Linear):
    """Renames what its state_dict holds."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.register_state_dict_post_hook(self._rename)  # type: ignore[no-untyped-call]

    @staticmethod
    def _rename(module: nn.Module, state: dict[str, torch.Tensor], prefix: str, _: object) -> None:
        state["other"] = state.pop(f"{prefix}weight")


def test_state_that_cannot_be_filled_in_again_is_refused() -> None:
    with pytest.raises(ArgumentError, match="other: the state_dict holds it, but it is neither"):
        network_tensors(Hiding(), [])
    with pytest.raises(ArgumentError, match="weight is not initialised yet"):
        network_tensors(nn.LazyLinear(2), [])
    with pytest.raises(ArgumentError, match="not initialised yet"):
        meta_copy(nn.LazyLinear(2))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_parameters_of_a_part_in_torchscript_are_parameters_in_a_copy_too(tmp_path: Path) -> None:
    """They are plain tensors there: files that hold them could not be loaded."""

    def made() -> nn.Module:
        return nn.Sequential(torch.jit.script(nn.BatchNorm1d(4)), nn.Linear(4, 4))

    model = made().eval()
    tailcut.regularize(model, num_kept=9)
    copied = copy.deepcopy(model)
    listed, again = (network_tensors(one, record_of(one).edits) for one in (model, copied))
    assert [other.is_parameter for other in listed.others] == [True, True, False, False, False, True]
    assert again.digest() == listed.digest()
    tailcut.save(model, tmp_path / "part.tailcut")
    x = torch.randn(3, 4)
    torch.testing.assert_close(tailcut.load(tmp_path / "part.tailcut", into=made())(x), model(x))
