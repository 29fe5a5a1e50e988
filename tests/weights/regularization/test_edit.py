import contextlib
import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tailcut.errors import (
    ArgumentError,
    CorruptFileError,
    FormatError,
    LimitError,
    StructureError,
    TruncatedFileError,
)
from tailcut.limits import MAX_TENSORS
from tailcut.structure import CoefficientLayout, Reader, Writer, edit_kind, record_of
from tailcut.weights import TailTruncation, kept_counts, regularize, to_dense, truncated_tensors
from tailcut.weights.regularization.edit import RegularizeEdit


class Net(nn.Module):
    """Layers of several numbers of axes, a tie, a layer used twice, and names out of alphabetical order."""

    def __init__(self) -> None:
        super().__init__()
        self.z = nn.Conv2d(2, 3, 3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.a = nn.Linear(6, 5)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.tied = nn.Linear(6, 5, bias=False)
        self.tied.weight = self.a.weight
        self.again = self.z
        self.norm = nn.BatchNorm1d(5)


NAMES = ["scale", "z.weight", "z.bias", "attention.in_proj_weight", "attention.in_proj_bias"]
NAMES += ["attention.out_proj.weight", "attention.out_proj.bias", "a.weight", "a.bias", "norm.weight"]


@st.composite
def edits(draw: st.DrawFn) -> RegularizeEdit:
    """Any choice of the tensors of `Net`, with any axes, order weights and counts."""
    model = Net()
    tensors = []
    for name in NAMES:
        if not draw(st.booleans()):
            continue
        shape = tuple(model.get_parameter(name).shape)
        axes = tuple(range(len(shape)))
        if draw(st.booleans()) and shape:
            axes = tuple(sorted(draw(st.sets(st.sampled_from(axes)))))
        weights = draw(st.sampled_from([(1, 1, 1, 1), (1, 1, 2, 2), (3, 2, 1, 64)]))[: len(axes)]
        tensors.append(CoefficientLayout(name, shape, axes, weights, draw(st.integers(1, math.prod(shape)))))
    return RegularizeEdit(tuple(tensors))


def encoded(edit: RegularizeEdit, model: nn.Module | None) -> bytes:
    writer = Writer()
    edit.encode(writer, model)
    return writer.getvalue()


def meta() -> nn.Module:
    with torch.device("meta"):
        return Net()


@given(edits())
def test_decode_gives_back_what_encode_wrote(edit: RegularizeEdit) -> None:
    for model in (None, Net(), meta()):
        reader = Reader(encoded(edit, model))
        assert RegularizeEdit.decode(reader, model) == edit
        reader.end()


@given(edits())
def test_apply_and_current(edit: RegularizeEdit) -> None:
    for model in (Net(), meta()):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        edit.check(model)
        assert all(name in before for name in model.state_dict())
        edit.apply(model)
        assert edit.current(model) == RegularizeEdit.of(model) == edit
        assert kept_counts(model) == {tensor.name: tensor.num_kept for tensor in edit.tensors}
        kept = edit.coefficients(model)
        assert [(each.name, each.shape, each.axes, each.order_weights, each.num_kept) for each in kept] == list(
            edit.coefficient_layouts()
        )
        assert all(each.values.shape == each.parameter.shape == (each.num_kept,) for each in kept)


@given(edits(), st.data())
def test_every_truncation_is_noticed(edit: RegularizeEdit, data: st.DataObject) -> None:
    for model in (None, meta()):
        content = encoded(edit, model)
        with pytest.raises(TruncatedFileError):
            RegularizeEdit.decode(Reader(content[: data.draw(st.integers(0, len(content) - 1))]), model)


@given(st.binary(max_size=80))
def test_any_bytes_give_an_edit_or_an_error_of_ours(content: bytes) -> None:
    for model in (None, meta()):
        with contextlib.suppress(FormatError):
            edit = RegularizeEdit.decode(Reader(content), model)
            for tensor in edit.tensors:
                assert 1 <= tensor.num_kept <= math.prod(tensor.shape)
                assert len(tensor.order_weights) == len(tensor.axes) <= len(tensor.shape)
            if model is not None:
                edit.check(model)


@given(edits(), st.data())
def test_mutated_bytes_give_an_edit_or_an_error_of_ours(edit: RegularizeEdit, data: st.DataObject) -> None:
    for model in (None, meta()):
        content = bytearray(encoded(edit, model))
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(FormatError):
            again = RegularizeEdit.decode(Reader(bytes(content)), model)
            assert RegularizeEdit.decode(Reader(encoded(again, model)), model) == again


def test_it_is_registered() -> None:
    assert edit_kind(1) is RegularizeEdit
    assert RegularizeEdit.kind == "regularize"


def test_regularize_records_it() -> None:
    model = Net()
    regularize(model, num_kept=7, order_weights=(1, 2, 3, 4), overrides={"a.*": {"axes": [1]}})
    (edit,) = record_of(model).edits
    assert edit == RegularizeEdit.of(model)
    assert isinstance(edit, RegularizeEdit)
    assert edit.tensors[0] == CoefficientLayout("z.weight", (3, 2, 3, 3), (0, 1, 2, 3), (1, 2, 3, 4), 7)
    assert edit.tensors[-1] == CoefficientLayout("a.weight", (5, 6), (1,), (1,), 7)
    TailTruncation(model, num_kept=3, gamma=1.0).step()
    (recorded,) = record_of(model).edits
    assert recorded == edit
    assert {tensor.num_kept for tensor in edit.current(model).tensors} == {3}


def test_apply_and_coefficients_rebuild_a_network() -> None:
    """The way of a file: structure first, then the numbers."""
    torch.manual_seed(0)
    source = Net()
    regularize(source, num_kept=11, include=["z.*", "a.*", "attention.*"])
    edit = RegularizeEdit.of(source)
    model = Net()
    edit.apply(model)
    assert all(torch.all(tensor.vector == 0) for tensor in truncated_tensors(model))
    with torch.no_grad():
        for ours, theirs in zip(edit.coefficients(model), edit.coefficients(source), strict=True):
            ours.parameter.copy_(theirs.values)
    dense, expected = to_dense(model), to_dense(source)
    for tensor in edit.tensors:
        assert torch.equal(dense.get_parameter(tensor.name), expected.get_parameter(tensor.name))
    assert model.get_submodule("attention")._forward_pre_hooks


def test_coefficients_are_trimmed_and_rounded() -> None:
    model = Net()
    regularize(model, num_kept=11, precision="bfloat16")
    TailTruncation(model, num_kept=4, gamma=1.0).step()
    for each in RegularizeEdit.of(model).coefficients(model):
        assert each.values.shape == (4,)
        assert len(each.parameter) == 11
        assert torch.equal(each.values, each.parameter[:4].bfloat16().float())
        assert not each.values.requires_grad


def test_a_network_that_lost_its_truncation_is_noticed() -> None:
    model = Net()
    regularize(model, num_kept=11)
    edit = RegularizeEdit.of(model)
    nn.utils.parametrize.remove_parametrizations(model.a, "weight")
    with pytest.raises(StructureError, match=r"a\.weight is no longer regularised, though the model's record says so"):
        edit.coefficients(model)


def other_shape(model: Net) -> None:
    model.a = nn.Linear(7, 5)


def missing(model: Net) -> None:
    del model.a, model.tied


def listed(model: Net) -> None:
    model.register_module("listed", nn.ParameterList([model.a.weight]))


def parametrised(model: Net) -> None:
    nn.utils.parametrizations.weight_norm(model.a)


def regularised(model: Net) -> None:
    regularize(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_shape, r"a\.weight: the model has shape \(5, 7\), recorded is \(5, 6\)"),
        (missing, r"the model has no parameter 'a\.weight' to regularise"),
        (parametrised, r"the model has no parameter 'a\.weight' to regularise"),
        (listed, r"a\.weight cannot be regularised: lies in a ParameterList"),
        (regularised, "the model is regularised already"),
    ],
)
def test_check_refuses_a_network_it_does_not_fit(change: object, message: str) -> None:
    edit = RegularizeEdit((CoefficientLayout("a.weight", (5, 6), (0, 1), (1, 1), 3),))
    model = Net()
    change(model)  # type: ignore[operator]
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(StructureError, match=message):
        edit.check(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("saved", "other"), [(True, False), (False, True)], ids=["saved", "loaded into"])
def test_names_that_torch_compile_made_are_reported(saved: bool, other: bool) -> None:
    def network(is_compiled: bool) -> nn.Module:
        body = nn.Sequential(nn.Linear(3, 4))
        # Not the default backend: it would be imported at once, and warns as that happens.
        part: object = torch.compile(body, backend="eager") if is_compiled else body
        return nn.ModuleDict({"body": part})  # type: ignore[dict-item]

    model = network(saved)
    regularize(model, num_kept=3)
    edit = RegularizeEdit.of(model)
    edit.check(network(saved))
    with pytest.raises(StructureError, match=r"to regularise; _orig_mod is torch\.compile's: the same parts must be"):
        edit.check(network(other))


def test_encode_refuses_names_that_the_base_lacks() -> None:
    edit = RegularizeEdit((CoefficientLayout("b.weight", (5, 6), (0, 1), (1, 1), 3),))
    with pytest.raises(StructureError, match=r"the recorded base has no parameter 'b\.weight'"):
        encoded(edit, Net())


def test_a_selection_costs_one_bit_per_parameter() -> None:
    model = Net()
    regularize(model, num_kept=7)
    assert len(encoded(RegularizeEdit.of(model), Net())) == 2 + 1 + 2
    assert len(list(Net().parameters())) == 11


def test_one_setting_serves_tensors_of_fewer_axes() -> None:
    model = Net()
    regularize(model, num_kept=7, include="*", order_weights=(1, 2, 3, 4))
    content = encoded(RegularizeEdit.of(model), Net())
    assert len(content) == 2 + 1 + (1 + 1 + 4) + 2


def names(*entries: tuple[str, tuple[int, ...]]) -> Writer:
    writer = Writer()
    writer.uint(len(entries))
    for name, shape in entries:
        writer.text(name)
        writer.shape(shape)
    return writer


def test_a_name_may_stand_once_only() -> None:
    writer = names(("a", (3,)), ("a", (3,)))
    writer.raw(bytes([0, 0, 1]))
    with pytest.raises(CorruptFileError, match="a regularised tensor is named twice"):
        RegularizeEdit.decode(Reader(writer.getvalue()), None)


def test_the_number_of_tensors_is_capped() -> None:
    writer = Writer()
    writer.uint(MAX_TENSORS + 1)
    with pytest.raises(LimitError, match="the number of regularised tensors is 16385, at most 16384"):
        RegularizeEdit.decode(Reader(writer.getvalue()), None)


def test_bits_behind_the_last_parameter_are_refused() -> None:
    with pytest.raises(CorruptFileError, match="a tensor behind the last of 11 parameters is selected"):
        RegularizeEdit.decode(Reader(b"\x01\x08" + bytes(9)), Net())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (bytes([1, 1 + 0b1000, 0]), r"axes or order weights do not fit a tensor of shape \(3, 3\): expected different"),
        (bytes([1, 0, 2, 0, 1]), "expected order weights as integers from 1 to 64, got 0"),
        (bytes([1, 0, 2, 65, 1]), "expected order weights as integers from 1 to 64, got 65"),
        (bytes([1, 0, 3, 1, 1, 65]), "expected order weights as integers from 1 to 64, got 65"),
        (bytes([1, 0, 1, 2]), "expected order weights of 2 integers"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: bytes, message: str) -> None:
    writer = names(("a", (3, 3)))
    writer.raw(settings + bytes([0, 1]))
    with pytest.raises(CorruptFileError, match=message):
        RegularizeEdit.decode(Reader(writer.getvalue()), None)


def test_more_settings_than_tensors_are_refused() -> None:
    with pytest.raises(LimitError, match="the number of settings is 2, at most 1 is allowed"):
        RegularizeEdit.decode(Reader(names(("a", (3, 3))).getvalue() + bytes([2])), None)


def test_huge_shapes_take_no_memory() -> None:
    """Sizes of 2^62 and sixteen axes of them: the counts are checked, nothing is built."""
    writer = names(("a", (1 << 62,) * 16), ("b", (1 << 62,)))
    writer.raw(bytes([0, 0, 5]))
    edit = RegularizeEdit.decode(Reader(writer.getvalue()), None)
    assert [tensor.num_kept for tensor in edit.tensors] == [5, 5]
    with pytest.raises(StructureError, match="the model has no parameter 'a' to regularise"):
        edit.check(meta())


def test_a_tensor_of_too_many_axes_cannot_be_written() -> None:
    shape = (1,) * 17
    edit = RegularizeEdit((CoefficientLayout("a", shape, tuple(range(17)), (1,) * 17, 1),))
    with pytest.raises(ArgumentError, match="at most 16 axes, got 17"):
        encoded(edit, None)


def test_ties_are_named_once() -> None:
    model = Net()
    regularize(model, num_kept=7)
    edit = RegularizeEdit.of(model)
    assert [tensor.name for tensor in edit.tensors] == [
        "z.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "a.weight",
    ]
    again = Net()
    edit.apply(again)
    tied: Tensor = truncated_tensors(again)[-1].vector
    assert truncated_tensors(again)[-1].aliases == ("tied.weight",)
    assert sum(parameter is tied for parameter in again.parameters()) == 1
