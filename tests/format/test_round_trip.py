"""Any small network comes back from its file bit by bit; the reference decoder reads the same."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.format import reference_decoder as reference
from tests.format.networks import BARE_UNET, Buffers, known, plain_state, randomize, regularized, same_bits, vectors
from torch import nn

import tailcut
from tailcut.format import encode_network
from tailcut.format.container.contents import decode
from tailcut.format.container.numbers import FLOAT_DTYPES
from tailcut.weights import truncated_tensors

sizes = st.integers(1, 4)


def _grouped(channels: int, kernel: int) -> nn.Module:
    return nn.Conv2d(2 * channels, 2 * channels, (kernel, 1), groups=2 * channels, dilation=2)


# A layer by its parameters: called again, it gives the same structure.
LAYERS: list[Callable[[int, int, int], nn.Module]] = [
    lambda a, b, k: nn.Linear(a, b, bias=k > 2),
    lambda a, b, k: nn.Conv1d(a, b, k),
    lambda a, b, k: nn.Conv2d(a, b, (k, 2), bias=k > 2),
    lambda a, b, k: nn.Conv3d(a, b, (1, k, 2)),
    lambda a, b, k: nn.ConvTranspose1d(a, b, k),
    lambda a, b, k: nn.ConvTranspose2d(a, b, k),
    lambda a, b, k: _grouped(a, k),
    lambda a, b, k: nn.Embedding(a + b, k),
    lambda a, b, k: nn.MultiheadAttention(2 * a, 2),
    lambda a, b, k: nn.MultiheadAttention(2 * a, 1, kdim=b, vdim=k, bias=False),
    lambda a, b, k: nn.BatchNorm1d(a, affine=k > 1, track_running_stats=k < 4),
    lambda a, b, k: nn.LayerNorm((a, b)),
    lambda a, b, k: nn.GRU(a, b),
    lambda a, b, k: Buffers(),
    lambda a, b, k: nn.ModuleDict({"änderung": nn.PReLU(a), "nested": nn.Sequential(nn.Linear(b, 1), nn.ReLU())}),
]


@dataclass(frozen=True)
class Plan:
    """A network of a user's own class, by its layers; the last one may share its weight with the first."""

    layers: tuple[tuple[int, int, int, int], ...]
    tied: bool
    dtype: torch.dtype

    def build(self) -> nn.Module:
        model = nn.Sequential(*(LAYERS[number](a, b, k) for number, a, b, k in self.layers))
        if self.tied:
            pair = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
            pair[1].weight = pair[0].weight
            model.append(pair)
        return model.to(self.dtype)


plans = st.builds(
    Plan,
    layers=st.lists(st.tuples(st.integers(0, len(LAYERS) - 1), sizes, sizes, sizes), min_size=1, max_size=4).map(tuple),
    tied=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16]),
)


@st.composite
def regularizations(draw: st.DrawFn, model: nn.Module) -> dict[str, Any] | None:
    """Arguments for `regularize` that fit the model, or None to leave it alone."""
    usable = dict(model.named_parameters())
    if not usable or draw(st.integers(0, 5)) == 0:
        return None
    names = draw(st.lists(st.sampled_from(sorted(usable)), min_size=1, unique=True))
    overrides: dict[str, dict[str, Any]] = {}
    for name in names:
        ndim = usable[name].ndim
        override: dict[str, Any] = {}
        if draw(st.booleans()):
            override["num_kept"] = draw(st.integers(1, usable[name].numel()))
        if draw(st.booleans()):
            override["axes"] = sorted(draw(st.sets(st.integers(0, ndim - 1)))) if ndim else []
        if draw(st.integers(0, 3)) == 0:
            num_axes = len(override.get("axes", range(ndim)))
            override["order_weights"] = draw(st.lists(st.integers(1, 64), min_size=num_axes, max_size=num_axes))
        if override:
            overrides[name] = override
    return {"include": names, "keep_ratio": draw(st.floats(0.01, 1)), "overrides": overrides}


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), plan=plans, seed=st.integers(0, 2**31), dtype=st.sampled_from(sorted(FLOAT_DTYPES)))
def test_any_network_of_ones_own_comes_back(data: st.DataObject, plan: Plan, seed: int, dtype: str) -> None:
    model = randomize(plan.build(), seed)
    arguments = data.draw(regularizations(model))
    if arguments is not None:
        tailcut.regularize(model, **arguments, warn=False)
    before = {name: vector.to(FLOAT_DTYPES[dtype]) for name, vector in vectors(model).items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "own.tailcut"
        tailcut.save(model, path, dtype=dtype, metadata={"seed": seed})
        again = tailcut.load(path, into=plan.build())
        report = tailcut.inspect(path)
        content = path.read_bytes()
    found = truncated_tensors(again)
    assert [entry.name for entry in found] == list(before)
    for entry in found:
        assert same_bits(entry.vector, before[entry.name].to(entry.vector.dtype))
    state = plain_state(model)
    assert list(plain_state(again)) == list(state)
    for key, value in plain_state(again).items():
        assert same_bits(value, state[key])
    if plan.tied:
        pair = list(again.children())[-1]
        holders = [dict(part.named_parameters()) for part in pair.children()]
        (own,) = {key for key in holders[0] if "weight" in key}
        assert holders[0][own] is holders[1][own]
    _compare_with_reference(content, before, state, report)
    assert encode_network(again, dtype=dtype, metadata={"seed": seed})[0] == content


def _compare_with_reference(
    content: bytes,
    coefficients: dict[str, torch.Tensor],
    state: dict[str, torch.Tensor],
    report: tailcut.format.InspectReport,
) -> None:
    read = reference.read(content)
    assert {entry.name: entry.values for entry in read.kept} == {
        name: vector.tolist() for name, vector in coefficients.items()
    }
    for other in read.others:
        assert other.values == state[other.name].flatten().tolist()
    assert [(t.name, t.shape, t.axes, t.weights, t.count) for t in read.kept] == [
        (t.name, t.shape, t.axes, t.order_weights, t.num_kept) for t in report.tensors
    ]
    assert [(t.name, t.shape, t.kind) for t in read.others] == [
        (t.name, t.shape, t.kind[0]) for t in report.other_tensors
    ]
    assert sum(t.bytes for t in report.tensors) + sum(t.bytes for t in report.other_tensors) <= report.file_bytes


REGISTERED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("lenet300", {}, {"keep_ratio": 0.003}),
    ("lenet300", {"bias": False, "convolutional": True}, {"num_kept": 100, "order_weights": (2, 1, 3, 3)}),
    ("lenet5", {"num_classes": 7, "conv_relu": True}, {"num_kept": {"conv2.weight": 9, "fc1.weight": 400}}),
    ("lenet5", {}, {"keep_ratio": 0.01, "axes": (0, 1)}),
    ("unet", {"widths": (2, 3, 5), "bilinear": True}, {"keep_ratio": 0.5, "include": ["*.weight", "*.bias"]}),
    ("unet", {"widths": (2, 3), **BARE_UNET}, {"num_kept": 6}),
    ("unet", {"widths": (2, 2)}, {}),
]


@pytest.mark.parametrize(("name", "arguments", "chosen"), REGISTERED)
@pytest.mark.parametrize("dtype", sorted(FLOAT_DTYPES))
def test_registered_networks_come_back(
    name: str, arguments: dict[str, Any], chosen: dict[str, Any], dtype: str, tmp_path: Path
) -> None:
    model = regularized(name, 3, arguments=arguments, **chosen) if chosen else tailcut.create_model(name, **arguments)
    path = tmp_path / "network.tailcut"
    tailcut.save(model, path, dtype=dtype, other_dtype="float16")
    again = tailcut.load(path)
    assert type(again) is type(model)
    assert not again.training
    for (name_before, before), (name_after, after) in zip(vectors(model).items(), vectors(again).items(), strict=True):
        assert name_before == name_after
        assert same_bits(after, before.to(FLOAT_DTYPES[dtype]).float())
    for key, value in plain_state(again).items():
        before = plain_state(model)[key]
        assert same_bits(value, before.half().float() if before.is_floating_point() else before)
    plain = tailcut.create_model(tailcut.inspect(path).model or "", **arguments)
    read = reference.read(path.read_bytes(), known(plain))
    assert [(entry.name, entry.values) for entry in read.kept] == [
        (key, vector.tolist()) for key, vector in vectors(again).items()
    ]
    for other in read.others:
        assert other.values == plain_state(again)[other.name].flatten().tolist()
    assert encode_network(again, dtype=dtype, other_dtype="float16")[0] == path.read_bytes()
    assert encode_network(model, dtype=dtype, other_dtype="float16")[0] == path.read_bytes()


def test_outputs_agree_to_the_bit(tmp_path: Path) -> None:
    model = regularized("lenet5", 5, keep_ratio=0.02).eval()
    tailcut.save(model, tmp_path / "a.tailcut")
    x = torch.rand(4, 1, 28, 28)
    again = tailcut.load(tmp_path / "a.tailcut")
    assert torch.equal(model(x), again(x))
    assert torch.equal(tailcut.to_dense(again)(x), model(x))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_bit_pattern_survives(kind: torch.dtype, tmp_path: Path) -> None:
    """All 65,536 patterns of the short types, NaN with their payloads too, through whichever codec is shortest."""
    patterns = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.int16)
    buffer = patterns.repeat(max(1, kind.itemsize // 2)).view(kind)

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", buffer.clone())

    model = Holder()
    path = tmp_path / "bits.tailcut"
    tailcut.save(model, path, allow_non_finite=True)
    fresh = Holder()
    fresh.get_buffer("kept").zero_()
    assert same_bits(tailcut.load(path, into=fresh, allow_non_finite=True).get_buffer("kept"), buffer)


@pytest.mark.parametrize("codec_number", [0, 1, 2])
def test_each_lossless_codec_is_chosen_where_it_wins(codec_number: int) -> None:
    torch.manual_seed(0)  # some of all bits are no number
    values = {0: torch.randint(-(2**62), 2**62, (64,)).view(torch.float64), 1: torch.zeros(3000), 2: torch.randn(300)}
    model = nn.Module()
    model.register_buffer("kept", values[codec_number])
    content, _ = encode_network(model, dtype="float32")
    assert [stream.codec_number for stream in decode(content).other_streams] == [codec_number]
