"""The edit keeps the laws of edits, and pruned networks come back from files."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.channels.slim_networks import EXACT, ConvNeXt, Gated, Plain, random_scores, randomized, same_state, state_of
from torch import Tensor, nn

from tailcut.channels.pruning.edit import NarrowedLayer, NarrowedTensor, PruneEdit
from tailcut.channels.pruning.prune import prune
from tailcut.errors import CorruptFileError, FormatError, ModelMismatchError, StructureError, UnsupportedVersionError
from tailcut.format import load, save
from tailcut.structure import Reader, Writer, create_model, record_of, register_model
from tailcut.weights import regularize, to_dense

X = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
KINDS = ["plain", "residual, option A", "grouped", "gated", "shared", "U-shaped", "attention", "inverted residual"]


def pruned(kind: str, *, seed: int = 0, rate: float = 0.4) -> tuple[nn.Module, PruneEdit]:
    case = EXACT[kind]
    model = randomized(case.build(), seed)
    prune(model, case.example(), random_scores(model, seed), rate, ignore=case.ignore)
    (edit,) = record_of(model).edits
    assert isinstance(edit, PruneEdit)
    return model, edit


def encoded(edit: PruneEdit, model: nn.Module | None) -> bytes:
    writer = Writer()
    edit.encode(writer, model)
    return writer.getvalue()


def decoded(content: bytes, model: nn.Module | None) -> PruneEdit:
    reader = Reader(content)
    edit = PruneEdit.decode(reader, model)
    reader.end()
    return edit


def on_meta(kind: str) -> nn.Module:
    with torch.device("meta"):
        return EXACT[kind].build()


@pytest.mark.parametrize("kind", KINDS)
def test_laws(kind: str) -> None:
    model, edit = pruned(kind)
    assert edit.current(model) == edit
    for known in (on_meta(kind), None):
        assert decoded(encoded(edit, known), known) == edit
    for fresh in (on_meta(kind), EXACT[kind].build()):
        before = state_of(fresh)
        edit.check(fresh)
        assert same_state(before, state_of(fresh))
        edit.apply(fresh)
        assert [(name, x.shape) for name, x in fresh.state_dict().items()] == [
            (name, x.shape) for name, x in model.state_dict().items()
        ]
        assert str(fresh) == str(model)
        assert [x.requires_grad for x in fresh.parameters()] == [x.requires_grad for x in model.parameters()]
    fresh.double().load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh.eval()(EXACT[kind].example()), model.eval()(EXACT[kind].example()))


def test_tied_tensors_stay_tied() -> None:
    _, edit = pruned("shared")
    fresh: Any = EXACT["shared"].build()
    edit.apply(fresh)
    assert fresh.left.weight is fresh.right.weight


@pytest.mark.parametrize(
    "kind", ["residual, option A", "residual, option B", "dense", "inverted residual", "attention"]
)
def test_registered_networks_come_back_from_files(kind: str, tmp_path: Path) -> None:
    case = EXACT[kind]
    model = case.build()
    prune(model, X, random_scores(model, 1), 0.5, ignore=case.ignore)
    save(model, tmp_path / "slim.tailcut")
    again = load(tmp_path / "slim.tailcut")
    x = case.example().float()
    with torch.no_grad():
        assert torch.equal(again(x), model.eval()(x))
    assert record_of(again) == record_of(model)
    assert str(again) == str(model)


def test_own_classes_come_back_from_files(tmp_path: Path) -> None:
    for build in (Plain, Gated, ConvNeXt):
        model = build()
        prune(model, X, random_scores(model, 1), 0.5)
        path = tmp_path / f"{build.__name__}.tailcut"
        save(model, path)
        again = load(path, into=build())
        with torch.no_grad():
            assert torch.equal(again(X), model.eval()(X))


@pytest.mark.parametrize("registered", [True, False])
def test_prune_regularise_pack_load(registered: bool, tmp_path: Path) -> None:
    model = create_model("resnet20", width=8)
    for seed in (0, 1):
        prune(model, X, random_scores(model, seed), 0.3)
    regularize(model, keep_ratio=0.3, warn=False)
    save(model, tmp_path / "slim.tailcut", registered=registered)
    again = load(tmp_path / "slim.tailcut", into=None if registered else create_model("resnet20", width=8))
    with torch.no_grad():
        expected = model.eval()(X)
        assert torch.equal(again(X), expected)
        dense = to_dense(again)
        torch.testing.assert_close(dense(X), expected)
    assert [edit.kind for edit in record_of(again).edits] == ["prune", "regularize"]
    # And on from there: dense again, narrower still, regularised again.
    prune(dense, X, random_scores(dense, 2), 0.3)
    regularize(dense, keep_ratio=0.5, warn=False)
    assert [edit.kind for edit in record_of(dense).edits] == ["prune", "regularize"]
    save(dense, tmp_path / "slimmer.tailcut", registered=registered)
    again = load(tmp_path / "slimmer.tailcut", into=None if registered else create_model("resnet20", width=8))
    with torch.no_grad():
        assert torch.equal(again(X), dense.eval()(X))


def test_a_pruned_network_loads_with_nothing_but_tailcut(tmp_path: Path) -> None:
    model = create_model("resnet20", width=8)
    prune(model, X, random_scores(model, 0), 0.5)
    save(model, tmp_path / "slim.tailcut")
    with torch.no_grad():
        torch.save((X, model.eval()(X)), tmp_path / "expected.pt")
    program = """
import sys
sys.modules["torch_pruning"] = None
import torch, tailcut
x, expected = torch.load("expected.pt")
with torch.no_grad():
    print(torch.allclose(tailcut.load("slim.tailcut")(x), expected))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "True\n", "")


class Small(nn.Module):
    """Three layers and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.head = nn.Conv2d(4, 3, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.norm(self.conv(x)) * self.scale)
        return y


SMALL = PruneEdit(
    (
        NarrowedLayer("conv", 1, (2, 3, 1)),
        NarrowedLayer("norm", 3, (3,)),
        NarrowedLayer("head", 1, (3, 3, 1)),
    ),
    (NarrowedTensor("scale", (3, 1, 1)),),
)


def test_every_byte() -> None:
    """As SPEC.md writes them down."""
    tensors = "01 05 73 63 61 6c 65 03 03 01 01"
    registered = f"03 01 01 02 03 01  00 03 03  00 01 03 03 01  {tensors}"
    own = f"03 04 636f6e76 01 02 03 01  04 6e6f726d 03 03  04 68656164 01 03 03 01  {tensors}"
    assert encoded(SMALL, Small()) == bytes.fromhex(registered)
    assert encoded(SMALL, None) == bytes.fromhex(own)
    model = Small()
    prune(model, X[:1, :2], {"conv": torch.tensor([1.0, 0, 1, 1])}, {"conv": 0.25})
    assert record_of(model).edits == [SMALL]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("01 09 01 02 03 01 00", CorruptFileError, "layer number 9 is narrowed, the network has 4 modules"),
        ("01 01 63 02 03 01 00", UnsupportedVersionError, "unknown kind of layer 99"),
        ("ff ff 03", FormatError, "at most 16384"),
        ("01 01 01 02 03", FormatError, "are left"),
        ("00 02 01 61 00 01 61 00", CorruptFileError, "narrowed twice"),
        ("00 00 00", CorruptFileError, "1 bytes are left"),
    ],
)
def test_damaged_bytes(content: str, error: type[FormatError], message: str) -> None:
    with pytest.raises(error, match=message):
        decoded(bytes.fromhex(content), Small())


def test_a_layer_named_twice() -> None:
    name = "04 636f6e76 01 02 03 01"
    with pytest.raises(CorruptFileError, match="narrowed twice"):
        decoded(bytes.fromhex(f"02 {name} {name} 00"), None)


@pytest.mark.parametrize(
    ("layers", "tensors", "message"),
    [
        ([("gone", 1, (1, 1, 1))], [], "no layer 'gone'"),
        ([("", 1, (1, 1, 1))], [], "the network is a Small|is a Small, which cannot be narrowed"),
        ([("norm", 1, (1, 1, 1))], [], "of the kind ChannelNorm, recorded is Convolution"),
        ([("conv", 1, (2, 0, 1))], [], "out_channels must be from 1 to 4, it is 0"),
        ([("conv", 1, (2, 5, 1))], [], "out_channels must be from 1 to 4, it is 5"),
        ([("conv", 1, (2, 4, 2))], [], "groups must be from 1 to 1, it is 2"),
        ([("norm", 3, (1 << 62,))], [], "num_features must be from 1 to 4"),
        ([], [("scale", (3, 1))], "cannot be narrowed to \\(3, 1\\)"),
        ([], [("scale", (5, 1, 1))], "cannot be narrowed to \\(5, 1, 1\\)"),
        ([], [("scale", (0, 1, 1))], "cannot be narrowed to \\(0, 1, 1\\)"),
        ([], [("nothing", (1,))], "no tensor 'nothing' outside of layers"),
        ([], [("conv.weight", (3, 2, 1, 1))], "no tensor 'conv.weight' outside of layers"),
    ],
)
def test_what_does_not_fit_is_refused(layers: list[Any], tensors: list[Any], message: str) -> None:
    edit = PruneEdit(tuple(NarrowedLayer(*layer) for layer in layers), tuple(NarrowedTensor(*one) for one in tensors))
    model = Small()
    before = state_of(model)
    with pytest.raises(StructureError, match=message):
        edit.check(model)
    assert same_state(before, state_of(model))


def test_groups_and_padding_are_bounded() -> None:
    grouped = nn.Sequential(nn.Conv2d(8, 8, 1, groups=4), nn.GroupNorm(4, 8))
    for layer, message in (
        (("0", 1, (6, 8, 4)), "4 groups do not divide 6 and 8"),
        (("0", 1, (8, 8, 2)), "the weight would grow"),
        (("1", 5, (4, 6)), "4 groups do not divide 6 channels"),
    ):
        with pytest.raises(StructureError, match=message):
            PruneEdit((NarrowedLayer(*layer),)).check(grouped)
    model = create_model("resnet20", width=4)
    edit = PruneEdit((NarrowedLayer("layer2.0.shortcut", 8, (1 << 40, 0)),))
    with pytest.raises(StructureError, match="it pads 1099511627776 channels, the widest tensor of the model has 16"):
        edit.check(model)


def test_parametrised_layers_are_refused() -> None:
    model = Small()
    regularize(model)
    with pytest.raises(StructureError, match="conv is parametrised"):
        SMALL.check(model)


def test_layers_tied_in_width_by_a_hostile_file() -> None:
    model: Any = EXACT["shared"].build()
    edit = PruneEdit((NarrowedLayer("left", 1, (8, 3, 1)), NarrowedLayer("right", 1, (8, 4, 1))))
    with pytest.raises(StructureError, match="tied to a tensor of another width"):
        edit.apply(model)


@settings(max_examples=150)
@given(content=st.binary(max_size=60), own=st.booleans())
def test_any_bytes_end_in_our_errors_and_never_grow_a_network(content: bytes, own: bool) -> None:
    with torch.device("meta"):
        model = create_model("resnet20", width=2)
    before = sum(x.numel() for x in model.state_dict().values())
    try:
        edit = decoded(content, None if own else model)
        edit.check(model)
    except (FormatError, StructureError):
        return
    edit.apply(model)
    assert sum(x.numel() for x in model.state_dict().values()) <= before


@settings(max_examples=60)
@given(data=st.data())
def test_any_sizes_that_pass_the_check_can_be_applied(data: st.DataObject) -> None:
    with torch.device("meta"):
        model = create_model("mobilenetv1_cifar", width=2)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    chosen = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=4))
    size = st.integers(0, 6)
    layers = [NarrowedLayer(name, 1, data.draw(st.tuples(size, size, size))) for name in chosen]
    edit = PruneEdit(tuple(layers))
    before = sum(x.numel() for x in model.state_dict().values())
    try:
        edit.check(model)
    except StructureError:
        return
    edit.apply(model)
    assert sum(x.numel() for x in model.state_dict().values()) <= before


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    model = Plain()
    prune(model, X, random_scores(model, 0), 0.5)
    save(model, tmp_path / "slim.tailcut")
    other = copy.deepcopy(Plain())
    other[4] = nn.Conv2d(8, 4, 3, bias=False)
    before = state_of(other)
    with pytest.raises(ModelMismatchError, match="4 cannot be narrowed: out_channels must be from 1 to 4"):
        load(tmp_path / "slim.tailcut", into=other)
    assert same_state(before, state_of(other))


def test_a_network_with_constants_of_its_own_comes_back(tmp_path: Path) -> None:
    """Those that no state_dict holds are made anew, so the network is built for real before it is narrowed."""

    class WithConstant(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.offset = torch.linspace(0, 1, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return y + self.offset

    register_model("prune-test-constant", example_shape=(1, 3, 16, 16))(WithConstant)
    model = create_model("prune-test-constant")
    prune(model, X, random_scores(model, 0), 0.5)
    save(model, tmp_path / "slim.tailcut")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "slim.tailcut")(X), model.eval()(X))
