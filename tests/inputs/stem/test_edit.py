import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.inputs import networks
from torch import nn

from tailcut import models as models
from tailcut.errors import (
    CorruptFileError,
    FormatError,
    LimitError,
    ModelMismatchError,
    StructureError,
    TruncatedFileError,
)
from tailcut.format import load, save
from tailcut.format.container.contents import decode, encode
from tailcut.inputs.selection.gate import FrequencyGate
from tailcut.inputs.selection.selection import Selection
from tailcut.inputs.stem.edit import (
    ATTRIBUTES,
    MAX_MODULES,
    MAX_WIDTH,
    GateEntry,
    LayerEntry,
    Projection,
    ReplaceStemEdit,
    Resized,
    Setting,
    transform_of,
)
from tailcut.inputs.stem.replace import replace_stem
from tailcut.inputs.transform.block_dct import BlockDCT
from tailcut.structure import Edit, Reader, Writer, create_model, edit_kind, record_of
from tailcut.weights import regularize


def encoded(edit: ReplaceStemEdit, model: nn.Module | None = None) -> bytes:
    writer = Writer()
    edit.encode(writer, model)
    return writer.getvalue()


def decoded(content: bytes, model: nn.Module | None = None) -> ReplaceStemEdit:
    reader = Reader(content)
    edit = ReplaceStemEdit.decode(reader, model)
    reader.end()
    return edit


def shapes(model: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, tensor.shape) for name, tensor in model.state_dict().items()]


def small(selection: Any = 6, **fields: Any) -> ReplaceStemEdit:
    return ReplaceStemEdit(Selection.of(selection), **fields)


NAMES = st.lists(st.sampled_from([f"part{i}.layer{j}" for i in range(3) for j in range(5)]), unique=True, max_size=5)
WIDTHS = st.integers(1, MAX_WIDTH)
ENTRIES = st.one_of(
    st.none(),
    st.builds(GateEntry, st.floats(1e-6, 1e6)),
    st.builds(
        LayerEntry, st.integers(1, 16), st.integers(1, 64), st.integers(1, 64), st.integers(0, 64), st.integers(1, 64)
    ),
)


@st.composite
def edits(draw: st.DrawFn) -> ReplaceStemEdit:
    removed = tuple(draw(NAMES))
    attributes = [attribute for attribute in ATTRIBUTES if draw(st.booleans())]
    return ReplaceStemEdit(
        Selection.of(draw(st.lists(st.integers(0, 191), unique=True, min_size=1, max_size=192))),
        draw(st.sampled_from(["two_scale", "full"])),
        draw(st.sampled_from(["edge", "error"])),
        removed,
        draw(ENTRIES) if removed else None,
        bool(removed) and draw(st.booleans()),
        tuple(Resized(name, draw(WIDTHS), draw(WIDTHS), draw(st.integers(0, MAX_WIDTH))) for name in draw(NAMES)),
        tuple(
            Projection(name, draw(st.sampled_from(["downsample", "shortcut"])), draw(WIDTHS), draw(WIDTHS))
            for name in draw(NAMES)
        ),
        tuple(Setting("part0.layer0", attribute, draw(st.integers(0, MAX_WIDTH))) for attribute in attributes),
        (draw(st.integers(1, 1024)), draw(st.integers(1, 1024))),
    )


@given(edits())
def test_what_is_written_is_read(edit: ReplaceStemEdit) -> None:
    assert decoded(encoded(edit)) == edit


@given(st.binary(max_size=80))
def test_any_bytes_give_an_edit_or_a_clear_error(content: bytes) -> None:
    try:
        edit = decoded(bytes([content[0] & 7, *content[1:]]) if content else content)
    except FormatError:
        return
    assert decoded(encoded(edit)) == edit


@given(edits(), st.data())
def test_every_truncation_is_noticed(edit: ReplaceStemEdit, data: st.DataObject) -> None:
    content = encoded(edit)
    with pytest.raises(TruncatedFileError):
        decoded(content[: data.draw(st.integers(0, len(content) - 1))])


def test_the_bytes_are_those_of_the_specification() -> None:
    edit = ReplaceStemEdit(
        Selection.of([0, 9, 64, 191]),
        "full",
        "edge",
        ("a", "b.c"),
        GateEntry(0.5),
        True,
        (Resized("d", 300, 2, 1),),
        (Projection("e", "shortcut", 4, 5),),
        (Setting("d", "stride", 2),),
        (28, 300),
    )
    expected = "05" + "0102000000000000" + "0100000000000000" + "0000000000000080" + "1c" + "ac02"
    expected += "02" + "0161" + "03622e63" + "01" + "000000000000e03f"
    expected += "01" + "0164" + "ac02" + "02" + "01"
    expected += "01" + "0165" + "01" + "04" + "05"
    expected += "01" + "0164" + "00" + "02"
    assert encoded(edit).hex() == expected
    layer = small(removed=("a",), entry=LayerEntry(16, 3, 1, 1, 4))
    assert encoded(layer).hex()[54:] == "01" + "0161" + "02" + "1003010104" + "000000"


def test_a_known_network_is_named_by_numbers() -> None:
    model = create_model("resnet18", width=4)
    edit: Any = record_of(replace_stem(copy.deepcopy(model), 24)).edits[0]
    content = encoded(edit, model)
    assert decoded(content, model) == edit
    numbers = {name: place for place, (name, _) in enumerate(model.named_modules())}
    stem = bytes(numbers[name] for name in ("conv1", "bn1", "relu", "maxpool"))
    assert content[27:32] == bytes([4]) + stem
    assert len(content) == 1 + 24 + 2 + 5 + 1 + (1 + 4) + (1 + 4) + 1
    with pytest.raises(StructureError, match="no module 'conv1'"):
        encoded(edit, nn.Sequential())


def head(flags: int = 0, bits: int = 1) -> bytes:
    return bytes([flags]) + bits.to_bytes(24, "little") + b"\x01\x01"


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (head(8), CorruptFileError, "flags 8"),
        (head(bits=0), CorruptFileError, "without channels"),
        (head()[:25] + b"\x00\x01", CorruptFileError, "size of a map is 0"),
        (head()[:25] + b"\x01\x81\x08", LimitError, "size of a map is 1025"),
        (head() + b"\x81\x20", LimitError, "number of removed modules is 4097"),
        (head() + b"\x00\x03", CorruptFileError, "unknown kind 3"),
        (head() + b"\x00\x01" + bytes(8), CorruptFileError, "temperature 0.0"),
        (head() + b"\x00\x01" + b"\x00" * 6 + b"\xf8\x7f", CorruptFileError, "temperature nan"),
        (head() + b"\x00\x02\x00", CorruptFileError, "number of channels of a replaced stem is 0"),
        (head() + b"\x00\x02\x01\x41\x01\x00\x01", LimitError, "size of a layer is 65"),
        (head() + b"\x00\x02\x01\x01\x00\x00\x01", CorruptFileError, "size of 0"),
        (head() + b"\x00\x02\x80\x80\x04\x01\x01\x00\x02", LimitError, "more than 65536 channels"),
        (
            head() + b"\x00\x00\x01\x01a\x81\x80\x04\x01\x01",
            LimitError,
            "number of channels of a replaced stem is 65537",
        ),
        (head() + b"\x00\x00\x01\x01a\x00\x01\x01", CorruptFileError, "number of channels of a replaced stem is 0"),
        (head() + b"\x00\x00\x00\x01\x01a\x02\x01\x01", LimitError, "a shortcut is 2"),
        (head() + b"\x00\x00\x00\x00\x01\x01a\x07\x01", LimitError, "a setting is 7"),
        (head(4) + bytes(5), CorruptFileError, "removes no module"),
        (head() + b"\x00\x01" + b"\x00" * 6 + b"\xf0\x3f" + bytes(3), CorruptFileError, "removes no module"),
        (head() + b"\x02\x01a\x01a" + bytes(4), CorruptFileError, "names a module twice"),
        (
            head() + b"\x00\x00\x02\x01a\x01\x01\x01\x01a\x01\x01\x01" + bytes(2),
            CorruptFileError,
            "names a module twice",
        ),
        (head() + b"\x00\x00\x00\x00\x02\x01a\x00\x01\x01a\x00\x02", CorruptFileError, "sets an attribute twice"),
        (head() + bytes(6), CorruptFileError, "1 bytes are left"),
    ],
)
def test_hostile_bytes(content: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        decoded(content)


def test_a_number_of_no_module() -> None:
    model = nn.Sequential(nn.Identity())
    with pytest.raises(LimitError, match="number of a module is 2"):
        decoded(head() + b"\x01\x02" + bytes(4), model)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (small(removed=("nowhere",)), "no module 'nowhere'"),
        (small(removed=("",)), "removes the whole network"),
        (small(removed=("block", "block.conv")), "changes block.conv, which goes away with block"),
        (small(removed=("block",), settings=(Setting("block.conv", "stride", 2),)), "goes away with block"),
        (small(resized=(Resized("block", 6, 6, 1),)), "block is a _Block, whose channels cannot be changed"),
        (small(resized=(Resized("conv", 6, 6, 0),)), "recorded is another kind of layer"),
        (small(resized=(Resized("conv", 6, 5, 2),)), "2 groups, which do not divide 6 and 5"),
        (small(projections=(Projection("conv", "shortcut", 6, 6),)), "conv has no empty shortcut 'shortcut'"),
        (small(projections=(Projection("block", "downsample", 6, 6),)), "no empty shortcut 'downsample'"),
        (small(settings=(Setting("block", "stride", 2),)), "only a convolution's stride"),
        (small(settings=(Setting("conv", "stride", 0),)), "stride cannot be 0"),
        (small(settings=(Setting("block", "image_size", 4),)), "no attribute 'image_size'"),
        (small(settings=(Setting("conv", "has_shortcut", 0),)), "no attribute 'has_shortcut'"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused_and_changes_nothing(edit: ReplaceStemEdit, message: str) -> None:
    model = networks.Residual(has_attribute=True)
    before = shapes(model), str(model)
    with pytest.raises(StructureError, match=message):
        edit.check(model)
    assert (shapes(model), str(model)) == before


def test_what_was_edited_before_is_refused() -> None:
    model = replace_stem(create_model("resnet20", width=2), 24)
    with pytest.raises(StructureError, match="replaced already"):
        small().check(model)
    model = create_model("resnet20", width=2)
    regularize(model, include="linear.weight")
    with pytest.raises(StructureError, match="linear is parametrised"):
        small().check(model)


@pytest.mark.parametrize(
    "edit",
    [
        small(24, removed=("conv",), entry=GateEntry(2.0), resized=(Resized("block.conv", 24, 6, 1),)),
        small(24, removed=("conv",), entry=LayerEntry(6, 3, 1, 1, 2), inside=True),
        small([3], removed=("conv",), projections=(Projection("block", "shortcut", 1, 6),)),
        small(64, chroma="full", padding="error", settings=(Setting("conv", "stride", 3),)),
    ],
)
def test_applied_on_the_meta_device_it_gives_the_same_shapes(edit: ReplaceStemEdit) -> None:
    real, ghost = networks.Residual(has_attribute=True), networks.Residual(has_attribute=True).to("meta")
    state = torch.random.get_rng_state()
    for model in (real, ghost):
        edit.check(model)
        edit.apply(model)
        assert edit.current(model) == edit
    assert torch.equal(torch.random.get_rng_state(), state)
    assert shapes(real) == shapes(ghost)
    assert str(real) == str(ghost)
    assert all(tensor.is_meta for tensor in ghost.state_dict().values())
    assert not any(tensor.is_meta for tensor in real.state_dict().values())


def test_what_is_made() -> None:
    model = networks.Residual(has_attribute=True).eval()
    small(24, removed=("conv",), entry=LayerEntry(6, 3, 1, 1, 2)).apply(model)
    assert model(torch.rand(1, 24, 4, 4)).shape == (1, 6)
    assert model.get_submodule("conv")(torch.rand(1, 24, 4, 4)).shape == (1, 6, 8, 8)
    assert not any(module.training for module in model.modules())
    own = transform_of(model)
    assert own is not None
    assert own(torch.rand(3, 16, 8)).shape == (24, 2, 1)


def test_the_edit_follows_the_transform_and_the_gate() -> None:
    model = replace_stem(create_model("resnet20", width=2), 24, first="layer1", gate=True)
    (edit,) = record_of(model).edits
    assert isinstance(edit, ReplaceStemEdit)
    gate, transform = model.get_submodule("normalize"), transform_of(model)
    assert isinstance(gate, FrequencyGate)
    assert transform is not None
    gate.temperature = 0.25
    transform.padding = "error"
    assert edit.current(model).entry == GateEntry(0.25)
    assert edit.current(model).padding == "error"
    model.normalize = nn.Identity()
    with pytest.raises(StructureError, match="normalize is no longer the gate"):
        edit.current(model)
    del model.input_transform
    with pytest.raises(StructureError, match="lost its input_transform"):
        edit.current(model)


def test_the_kind_is_known_by_its_number() -> None:
    assert edit_kind(2) is ReplaceStemEdit
    assert issubclass(ReplaceStemEdit, Edit)
    assert small().coefficient_layouts() == []
    assert small().coefficients(nn.Identity()) == []
    assert MAX_MODULES == 4096


def test_a_module_that_stands_twice_gives_way_everywhere() -> None:
    model = networks.Residual(has_attribute=True)
    model.again = model.conv
    small(removed=("conv",)).apply(model)
    assert model.again is model.conv
    assert isinstance(model.conv, nn.Identity)


def test_within_a_part() -> None:
    edit = small(removed=("a",), resized=(Resized("", 6, 2, 1),), settings=(Setting("b", "stride", 2),))
    moved = edit.within("x.y")
    assert (moved.removed, moved.resized[0].name, moved.settings[0].name) == (("x.y.a",), "x.y", "x.y.b")
    assert edit.within("") == edit


def test_transform_of() -> None:
    assert transform_of(nn.Sequential(nn.Identity())) is None
    transform = BlockDCT(24)
    assert transform_of(nn.Sequential(nn.Identity(), transform)) is transform


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"entry": LayerEntry(MAX_WIDTH, 64, 1, 0, 1)}, LimitError, "numbers"),
        ({"resized": (Resized("layer1.0.conv1", MAX_WIDTH, MAX_WIDTH, 1),)}, LimitError, "numbers"),
        ({"projections": (Projection("layer1.0", "shortcut", MAX_WIDTH, MAX_WIDTH),)}, LimitError, "numbers"),
        ({"resized": (Resized("relu", 2, 2, 0),)}, ModelMismatchError, "relu, .*cannot be changed|relu is a ReLU"),
        ({"removed": ("layer1", "layer1.0")}, ModelMismatchError, "goes away with layer1"),
        ({"removed": ("normalize", "layer2")}, ModelMismatchError, "names, shapes or axes"),
        ({"selection": Selection.of(6)}, ModelMismatchError, "names, shapes or axes"),
    ],
)
def test_hostile_files(changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    bare = create_model("resnet20", width=2)
    model = replace_stem(create_model("resnet20", width=2), 24)
    save(model, tmp_path / "a.tailcut")
    contents = decode((tmp_path / "a.tailcut").read_bytes())
    (edit,) = record_of(model).edits
    assert isinstance(edit, ReplaceStemEdit)
    hostile = encoded(replace(edit, **changes), bare)
    (tmp_path / "a.tailcut").write_bytes(encode(replace(contents, edits=((2, hostile),))))
    with pytest.raises(error, match=message):
        load(tmp_path / "a.tailcut", max_parameters=1 << 24)
