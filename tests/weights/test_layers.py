import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError
from tailcut.format import load, save
from tailcut.weights import budget, kept_counts, regularize, to_dense, truncated_tensors
from tailcut.weights.layers import LAYERS, candidates, find_layer

Truncate = Callable[..., Tensor]
NUM_KEPT = 19


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


class Conv1D(nn.Module):
    """The linear layer of GPT-2, under the name that it has in transformers."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = nx, nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return flat.view(*x.shape[:-1], flat.shape[-1])


class GraphLinear(nn.Module):
    """The linear layer of torch_geometric, under the name that it has there. It writes its state itself."""

    __module__, __qualname__ = "torch_geometric.nn.dense.linear", "Linear"

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        for name in ("weight", "bias"):
            value = getattr(self, name)
            destination[prefix + name] = value if keep_vars else value.detach()


INDICES = torch.tensor([[0, 3, 3], [8, 1, 5]])
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "linear": (lambda: nn.Linear(9, 7), (numbers(2, 3, 9),)),
    "linear without bias": (lambda: nn.Linear(9, 7, bias=False), (numbers(2, 9),)),
    "linear to one": (lambda: nn.Linear(30, 1), (numbers(2, 30),)),
    "bilinear": (lambda: nn.Bilinear(4, 5, 3), (numbers(2, 4), numbers(2, 5))),
    "conv1d": (lambda: nn.Conv1d(4, 6, 5, padding=2), (numbers(2, 4, 11),)),
    "conv1d circular": (lambda: nn.Conv1d(4, 6, 5, padding=2, padding_mode="circular"), (numbers(2, 4, 11),)),
    "conv2d": (lambda: nn.Conv2d(3, 6, (3, 2), stride=2), (numbers(2, 3, 9, 8),)),
    "conv2d 1 x 1": (lambda: nn.Conv2d(8, 6, 1, bias=False), (numbers(2, 8, 3, 3),)),
    "conv2d dilated": (lambda: nn.Conv2d(3, 6, 3, dilation=2, padding="same"), (numbers(2, 3, 9, 8),)),
    "conv2d grouped": (lambda: nn.Conv2d(6, 8, 3, groups=2), (numbers(2, 6, 5, 5),)),
    "conv2d depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6), (numbers(2, 6, 5, 5),)),
    "conv2d reflected": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (numbers(2, 3, 5, 5),)),
    "conv3d": (lambda: nn.Conv3d(2, 3, (1, 3, 2)), (numbers(2, 2, 3, 5, 4),)),
    "transposed conv1d": (lambda: nn.ConvTranspose1d(4, 3, 4, stride=2), (numbers(2, 4, 5),)),
    "transposed conv2d": (lambda: nn.ConvTranspose2d(6, 4, 2, stride=2), (numbers(2, 6, 3, 4),)),
    "transposed conv2d grouped": (
        lambda: nn.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1, groups=2, dilation=2),
        (numbers(2, 6, 3, 4),),
    ),
    "transposed conv3d": (lambda: nn.ConvTranspose3d(3, 2, 2), (numbers(1, 3, 3, 2, 2),)),
    "embedding": (lambda: nn.Embedding(9, 5), (INDICES,)),
    "embedding with padding": (lambda: nn.Embedding(9, 5, padding_idx=3), (INDICES,)),
    "embedding of bounded norm": (lambda: nn.Embedding(9, 5, max_norm=1.0), (INDICES,)),
    "bag of embeddings": (lambda: nn.EmbeddingBag(9, 5), (INDICES,)),
    "attention": (
        lambda: nn.MultiheadAttention(6, 2, batch_first=True),
        (numbers(2, 4, 6), numbers(2, 3, 6), numbers(2, 3, 6)),
    ),
    "attention with other widths": (
        lambda: nn.MultiheadAttention(6, 3, kdim=5, vdim=4, add_bias_kv=True, batch_first=True),
        (numbers(2, 4, 6), numbers(2, 3, 5), numbers(2, 3, 4)),
    ),
    "attention of a sequence to itself": (
        lambda: nn.MultiheadAttention(6, 2, bias=False),
        (numbers(4, 2, 6),) * 3,
    ),
    "linear layer of GPT-2": (lambda: Conv1D(7, 9), (numbers(2, 3, 9),)),
    "linear layer of torch_geometric": (lambda: GraphLinear(9, 7), (numbers(2, 9),)),
    "lazy, after its first forward": (lambda: _warm(nn.LazyConv2d(4, 3), numbers(1, 3, 5, 5)), (numbers(2, 3, 5, 5),)),
    "a subclass": (lambda: type("Own", (nn.Linear,), {})(9, 7), (numbers(2, 9),)),
}
WITHOUT_BIAS = [name for name in CASES if "embedding" in name] + [
    "linear without bias",
    "conv2d 1 x 1",
    "attention of a sequence to itself",
]


def _warm(layer: nn.Module, x: Tensor) -> nn.Module:
    layer(x)
    return layer


def output(layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    result: Any = layer(*inputs)
    return cast(Tensor, result[0] if isinstance(result, tuple) else result)


def by_name(layer: nn.Module) -> dict[str, Any]:
    """What `regularize` needs to be told of the few layers whose weight it takes by its full name only."""
    return {} if getattr(layer, "padding_idx", None) is None else {"include": "weight"}


def regularised_names(layer: nn.Module) -> set[str]:
    return {tensor.name for tensor in truncated_tensors(layer)}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    make, inputs = CASES[request.param]
    layer = make()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer, inputs


def test_every_row_is_tried() -> None:
    kinds = {type(make()) for make, _ in CASES.values()}
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in kinds}
    # Those of recurrent layers are in test_recurrent.py.
    assert {layer.type for layer in LAYERS} - {nn.RNNBase, nn.RNNCellBase} <= kinds | names


def test_a_layer_that_writes_its_own_state_is_saved_and_restored(tmp_path: Path) -> None:
    layer, other = GraphLinear(9, 7), GraphLinear(9, 7)
    regularize(layer, num_kept=NUM_KEPT)
    regularize(other)
    x = numbers(2, 9)
    assert set(layer.state_dict()) == {"parametrizations.weight.original", "bias"}
    assert set(nn.Sequential(layer).state_dict(keep_vars=True)) == {"0.parametrizations.weight.original", "0.bias"}
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    save(layer, tmp_path / "layer.tailcut")
    loaded = load(tmp_path / "layer.tailcut", into=GraphLinear(9, 7))
    assert torch.equal(loaded(x), layer(x))
    assert set(to_dense(layer).state_dict()) == {"weight", "bias"}


def test_layer_with_truncated_weights(case: tuple[nn.Module, tuple[Tensor, ...]], truncate: Truncate) -> None:
    """Output and gradients are those of the plain layer with SciPy's truncated weights."""
    layer, inputs = case
    plain = copy.deepcopy(layer)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name.rpartition(".")[2].endswith("weight"):
                parameter.copy_(truncate(parameter, NUM_KEPT))
    report = regularize(layer, num_kept=NUM_KEPT, **by_name(layer))
    weights = {name for name, _ in plain.named_parameters() if name.endswith("weight")}
    assert {tensor.name for tensor in report.tensors} == regularised_names(layer) == weights
    result, expected = output(layer, inputs), output(plain, inputs)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    result.square().sum().backward()
    expected.square().sum().backward()
    for name, parameter in plain.named_parameters():
        if name not in weights:
            torch.testing.assert_close(layer.get_parameter(name).grad, parameter.grad, rtol=1e-3, atol=1e-4)
    # By the chain rule the vector's gradient is the first coefficients of the weight's.
    for tensor in truncated_tensors(layer):
        gradient = plain.get_parameter(tensor.name).grad
        assert gradient is not None
        expected_gradient = tensor.truncation.right_inverse(gradient)
        torch.testing.assert_close(tensor.vector.grad, expected_gradient, rtol=1e-3, atol=1e-4)


def test_layer_with_all_coefficients_is_unchanged(case: tuple[nn.Module, tuple[Tensor, ...]]) -> None:
    layer, inputs = case
    plain = copy.deepcopy(layer)
    regularize(layer, **by_name(layer))
    torch.testing.assert_close(output(layer, inputs), output(plain, inputs), rtol=1e-4, atol=1e-5)
    dense = to_dense(layer)
    assert type(dense) is type(plain)
    assert list(dense.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(output(dense, inputs), output(layer, inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", [name for name in CASES if name not in WITHOUT_BIAS], indirect=True)
def test_biases_on_request(case: tuple[nn.Module, tuple[Tensor, ...]], truncate: Truncate) -> None:
    layer, inputs = case
    biases = [name for name, _ in layer.named_parameters() if "bias" in name]
    assert biases
    plain = copy.deepcopy(layer)
    with torch.no_grad():
        for name in biases:
            plain.get_parameter(name).copy_(truncate(plain.get_parameter(name), 2))
    regularize(layer, num_kept=2, include=["bias*", "*_bias", "*.bias"] if len(biases) > 3 else biases)
    assert regularised_names(layer) == set(biases)
    torch.testing.assert_close(output(layer, inputs), output(plain, inputs), rtol=1e-4, atol=1e-5)


def test_roles_fit_the_weights() -> None:
    for make, _ in CASES.values():
        layer = make()
        row = find_layer(layer)
        assert row is not None
        for attribute, roles in row.weights.items():
            weight = getattr(layer, attribute)
            if weight is not None:
                assert weight.ndim == len(roles)
                assert set(roles) <= {"output", "input", "kernel"}
        assert all(hasattr(layer, attribute) for attribute in row.biases)


def test_axes_have_the_sizes_of_their_roles() -> None:
    sizes: dict[str, list[int]] = {}
    for make, _ in CASES.values():
        layer: Any = make()
        row = find_layer(layer)
        if row is None or getattr(layer, "groups", 2) != 1:
            continue
        for role, size in zip(row.weights["weight"], layer.weight.shape, strict=True):
            sizes.setdefault(role, []).append(size)
            if role != "kernel":
                assert size == (layer.in_channels if role == "input" else layer.out_channels)
    assert len(sizes["kernel"]) > 10


def test_no_row_for_other_layers() -> None:
    for layer in (nn.ReLU(), nn.BatchNorm2d(3), nn.PReLU(), nn.Sequential(nn.Linear(2, 2))):
        assert find_layer(layer) is None


class Everything(nn.Module):
    """One parameter of each kind that needs an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.tied = nn.Linear(3, 4, bias=False)
        self.tied.weight = self.linear.weight
        self.again = self.linear
        self.norm = nn.BatchNorm1d(4)
        self.layer_norm = nn.LayerNorm(4)
        self.lstm = nn.LSTM(4, 3)
        self.cell = nn.GRUCell(3, 4)
        self.lazy = nn.LazyLinear(3)
        self.list = nn.ParameterList([torch.zeros(3)])
        self.dict = nn.ParameterDict({"a": torch.zeros(2)})
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.integers = nn.Parameter(torch.zeros(3, dtype=torch.int64), requires_grad=False)
        self.complex = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
        self.not_dense = nn.Parameter(torch.eye(3).to_sparse())
        self.activation = nn.PReLU()
        self.sparse = nn.Embedding(5, 3, sparse=True)
        self.padded = nn.Embedding(5, 3, padding_idx=2)
        self.weight_norm = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2, bias=False))
        self.register_parameter("nothing", None)


WEIGHT, BY_NAME = "weight", "by name"
EXPECTED = {
    "scale": BY_NAME,
    "empty": "empty",
    "integers": r"not floating point \(torch.int64\)",
    "complex": r"not floating point \(torch.complex64\)",
    "not_dense": r"not a dense tensor \(torch.sparse_coo\)",
    "linear.weight": WEIGHT,
    "linear.bias": BY_NAME,
    "norm.weight": BY_NAME,
    "norm.bias": BY_NAME,
    "layer_norm.weight": BY_NAME,
    "layer_norm.bias": BY_NAME,
    "lstm.weight_ih_l0": WEIGHT,
    "lstm.weight_hh_l0": WEIGHT,
    "lstm.bias_ih_l0": BY_NAME,
    "lstm.bias_hh_l0": BY_NAME,
    "cell.weight_ih": WEIGHT,
    "cell.weight_hh": WEIGHT,
    "cell.bias_ih": BY_NAME,
    "cell.bias_hh": BY_NAME,
    "lazy.weight": "not initialised yet: run one forward first",
    "lazy.bias": "not initialised yet",
    "list.0": "lies in a ParameterList or ParameterDict, which cannot be parametrised",
    "dict.a": "lies in a ParameterList or ParameterDict",
    "activation.weight": BY_NAME,
    "sparse.weight": "its gradients are sparse",
    "padded.weight": BY_NAME,
    "weight_norm.parametrizations.weight.original0": "parametrised by something else already",
    "weight_norm.parametrizations.weight.original1": "parametrised by something else already",
}


def test_candidates_are_all_parameters_in_their_order() -> None:
    model = Everything()
    found = candidates(model)
    assert [candidate.names[0] for candidate in found] == list(EXPECTED)
    assert [candidate.names[0] for candidate in found] == [name for name, _ in model.named_parameters()]
    by_name = {candidate.names[0]: candidate for candidate in found}
    assert by_name["linear.weight"].names == ("linear.weight", "tied.weight")
    assert by_name["linear.weight"].owners == ((model.linear, "weight"), (model.tied, "weight"))
    for name, expected in EXPECTED.items():
        candidate = by_name[name]
        assert candidate.parameter is model.get_parameter(name)
        is_normalization = "norm." in name and not name.startswith("weight_norm")
        assert (candidate.reservation == "normalisation") == is_normalization
        if expected in (WEIGHT, BY_NAME):
            assert candidate.obstacle is None
            assert candidate.is_weight == (expected == WEIGHT or name == "padded.weight")


@pytest.mark.parametrize("name", [name for name, reason in EXPECTED.items() if reason not in (WEIGHT, BY_NAME)])
def test_obstacles_are_named_even_on_request(name: str) -> None:
    model = Everything()
    with pytest.raises(ArgumentError, match=rf"nothing to regularise .*{name}: {EXPECTED[name]}"):
        regularize(model, include=name)
    report = regularize(model, num_kept=2)
    assert "linear.weight" in kept_counts(model)
    assert {left.name for left in report.skipped} == {key for key, reason in EXPECTED.items() if reason != WEIGHT}


@pytest.mark.parametrize("name", [name for name, reason in EXPECTED.items() if reason == BY_NAME])
def test_everything_else_can_be_chosen_by_name(name: str, truncate: Truncate) -> None:
    model = Everything()
    expected = truncate(model.get_parameter(name), 2)
    regularize(model, num_kept=2, include=name)
    module = model.get_submodule(name.rpartition(".")[0])
    torch.testing.assert_close(getattr(module, name.rpartition(".")[2]), expected)


def test_a_parameter_made_in_inference_mode_is_an_obstacle() -> None:
    with torch.inference_mode():
        made = nn.Linear(3, 4)
    with pytest.raises(ArgumentError, match=r"weight: made under torch\.inference_mode"):
        regularize(made)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_a_scripted_module_is_an_obstacle() -> None:
    model = nn.Sequential(nn.Linear(3, 4), torch.jit.script(nn.Linear(4, 3)))
    report = regularize(model, include="*")
    assert [tensor.name for tensor in report.tensors] == ["0.weight", "0.bias"]
    assert [left.reason for left in report.skipped] == ["scripted modules cannot be changed"] * 2


def test_a_tie_to_an_obstacle_is_an_obstacle() -> None:
    held = nn.ParameterList([torch.zeros(12, 3)])
    linear = nn.Linear(3, 12, bias=False)
    linear.weight = held[0]
    report = regularize(nn.ModuleList([linear, held, nn.Linear(2, 2)]))
    assert {left.name: left.reason for left in report.skipped}["0.weight"].startswith("lies in a ParameterList")


TABLES: list[Callable[..., nn.Module]] = [nn.Embedding, nn.EmbeddingBag]
PADDING = "its padding (padding_idx=3) would not stay zero; include it by its full name"


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("settings", [{}, {"include": "*"}, {"include": ["tab?e.weight", "out.*"]}], ids=str)
def test_a_row_of_padding_stays_zero(table: Callable[..., nn.Module], settings: dict[str, Any]) -> None:
    model = nn.ModuleDict({"table": table(9, 5, padding_idx=3), "out": nn.Linear(5, 4)})
    report = regularize(model, num_kept=6, **settings)
    assert {left.name: left.reason for left in report.skipped}["table.weight"] == PADDING
    assert "table.weight" not in kept_counts(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    model["out"](model["table"](INDICES)).square().sum().backward()
    optimizer.step()
    assert torch.equal(model.get_parameter("table.weight")[3], torch.zeros(5))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("settings", [{"include": "weight"}, {"num_kept": {"weight": 6}}], ids=str)
def test_a_table_with_padding_by_its_full_name(table: Callable[..., nn.Module], settings: dict[str, Any]) -> None:
    layer = table(9, 5, padding_idx=3)
    with pytest.raises(ArgumentError, match=r"weight: its padding \(padding_idx=3\) would not stay zero; include it"):
        regularize(layer)
    assert [tensor.name for tensor in regularize(layer, **settings).tensors] == ["weight"]


def test_a_tie_of_tables_with_padding_is_left_too() -> None:
    model = nn.ModuleDict({"bag": nn.EmbeddingBag(9, 5), "table": nn.Embedding(9, 5, padding_idx=3)})
    model["bag"].weight = model["table"].weight
    with pytest.raises(ArgumentError, match=r"bag\.weight: its padding"):
        regularize(model)
    regularize(model, include="table.weight")
    assert kept_counts(model) == {"bag.weight": 45}


@pytest.mark.parametrize("first", ["out", "table"])
def test_a_head_tied_to_a_table_with_padding_trains_that_row_anyway(first: str) -> None:
    layers = {"out": nn.Linear(5, 9, bias=False), "table": nn.Embedding(9, 5, padding_idx=3)}
    model = nn.ModuleDict({name: layers[name] for name in sorted(layers, key=lambda name: name != first)})
    model["out"].weight = model["table"].weight
    nn.functional.cross_entropy(model["out"](model["table"](INDICES)).flatten(0, 1), INDICES.flatten()).backward()
    gradient = model.get_parameter("table.weight").grad
    assert gradient is not None
    assert gradient[3].abs().sum() > 0
    assert [tensor.name for tensor in regularize(model, num_kept=6).tensors] == [f"{first}.weight"]


class RMSNorm(nn.Module):
    """A norm as language models bring their own."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(shape))


def renamed(name: str, kind: type[nn.Module] = RMSNorm) -> Any:
    return type(name, (kind,), {})


NORMS: dict[str, Callable[[], nn.Module]] = {
    "of a language model": lambda: renamed("LlamaRMSNorm")(4),
    "of maps": lambda: renamed("GlobalResponseNormalization")(1, 4, 1, 1),
    "one number": lambda: renamed("ScaleNorm")(),
    "lower case": lambda: renamed("rmsnorm_gated")(4),
    "of torch": lambda: nn.RMSNorm(4),
}


@pytest.mark.parametrize("kind", NORMS)
def test_norms_of_ones_own_are_left_as_torchs_are(kind: str) -> None:
    def model() -> nn.ModuleDict:
        return nn.ModuleDict({"linear": nn.Linear(3, 4, bias=False), "norm": NORMS[kind]()})

    for include, reason in (
        (None, "normalisation"),
        ("*.weight", "normalisation; include it by its full name"),
    ):
        report = regularize(model(), include=include)
        assert {left.name: left.reason for left in report.skipped} == {"norm.weight": reason}
    assert [tensor.name for tensor in regularize(model(), include="norm.weight").tensors] == ["norm.weight"]


class Network(RMSNorm):
    """It has a vector of its own beside its layers."""

    def __init__(self, *shape: int) -> None:
        super().__init__(*shape)
        self.layer = nn.Linear(3, 4)


def test_only_gains_and_biases_make_a_norm() -> None:
    for name, module in {
        "a distribution": renamed("LogNormal")(4),
        "another word": renamed("EnormousScale")(4),
        "a matrix": renamed("NormedProjection")(4, 3),
        "a known layer": renamed("NormLinear", nn.Linear)(1, 4, bias=False),
        "a network": renamed("NormFreeNet", Network)(4),
    }.items():
        found = {candidate.names[0]: candidate.reservation for candidate in candidates(module)}
        assert set(found.values()) == {None}, name


def test_a_lazy_norm_of_ones_own_is_an_obstacle() -> None:
    norm = renamed("LazyNorm")(4)
    norm.weight = nn.UninitializedParameter()
    report = regularize(nn.ModuleDict({"linear": nn.Linear(3, 4, bias=False), "norm": norm}))
    assert [left.reason for left in report.skipped] == ["not initialised yet: run one forward first"]


FROZEN = "frozen, unlike others (requires_grad=False); include it by its full name"


class Positions(nn.Module):
    """A network whose author fixed the table of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(9, 5).requires_grad_(False)
        self.linear = nn.Linear(5, 4, bias=False)


@pytest.mark.parametrize("settings", [{}, {"include": "*.weight"}, {"include": ["pos*", "linear.*"]}], ids=str)
def test_a_frozen_parameter_among_others_is_left(settings: dict[str, Any]) -> None:
    model = Positions()
    before = model.positions.weight.clone()
    report = regularize(model, num_kept=6, **settings)
    assert {left.name: left.reason for left in report.skipped} == {"positions.weight": FROZEN}
    assert torch.equal(model.positions.weight, before)
    assert budget(Positions(), 6) == {"linear.weight": 6}


@pytest.mark.parametrize("settings", [{"include": "positions.weight"}, {"num_kept": {"positions.weight": 6}}], ids=str)
def test_a_frozen_parameter_by_its_full_name(settings: dict[str, Any]) -> None:
    model = Positions()
    regularize(model, **settings)
    assert list(kept_counts(model)) == ["positions.weight"]
    assert not truncated_tensors(model)[0].vector.requires_grad


def test_a_network_that_is_frozen_as_a_whole_is_regularised_as_a_whole() -> None:
    model = Positions().requires_grad_(False)
    regularize(model, num_kept=6)
    assert kept_counts(model) == {"positions.weight": 6, "linear.weight": 6}
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_where_only_norms_and_biases_are_trained_frozen_weights_are_regularised() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm([2, 4]))
    model[0].weight.requires_grad_(False)
    report = regularize(model)
    assert [tensor.name for tensor in report.tensors] == ["0.weight"]
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, False, True, True]


class Prompted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4).requires_grad_(False)
        self.prompt = nn.Parameter(torch.zeros(2, 3))


def test_weights_that_are_frozen_beside_trained_ones_of_any_kind_are_left() -> None:
    frozen = nn.Linear(3, 4).requires_grad_(False)
    others = [nn.Embedding(5, 4, padding_idx=0), nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))]
    for model in (*(nn.Sequential(copy.deepcopy(frozen), other) for other in others), Prompted()):
        with pytest.raises(ArgumentError, match=r"nothing to regularise .*weight: frozen, unlike others .* full name"):
            regularize(model)


class Packed(nn.Module):
    """A linear layer as GPTQ keeps it: integers in a buffer, scales beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.zeros(2, 4, dtype=torch.int32))
        self.register_buffer("scale_of_weight", torch.ones(4))
        self.register_buffer("pruned_weight", torch.zeros(2, 4, dtype=torch.bool))
        self.register_buffer("positions", torch.zeros(4, dtype=torch.int64))
        self.register_buffer("class_weight", torch.zeros(4, dtype=torch.int64))


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions.*deprecated")
def test_quantised_weights_are_named() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(3, 4, bias=False), "gptq": Packed(), "bare": nn.Module()})
    model["ao"] = torch.ao.nn.quantized.dynamic.Linear(4, 3)
    model["bare"].weight = nn.Parameter(torch.zeros(6, 1, dtype=torch.uint8), requires_grad=False)
    report = regularize(model)
    assert [tensor.name for tensor in report.tensors] == ["linear.weight"]
    assert [(left.name, left.shape, left.reason) for left in report.skipped] == [
        ("bare.weight", (6, 1), "not floating point (torch.uint8)"),
        ("gptq.qweight", (2, 4), "quantised already (torch.int32)"),
        ("ao.weight", (3, 4), "quantised already (torch.qint8)"),
    ]
    with pytest.raises(ArgumentError, match=r"nothing to regularise .*qweight: quantised already \(torch.int32\)"):
        regularize(Packed())


def test_what_hinders_a_table_with_padding_is_told_first() -> None:
    with pytest.raises(ArgumentError, match="weight: its gradients are sparse"):
        regularize(nn.Embedding(9, 5, padding_idx=3, sparse=True))


def test_parameters_in_one_memory_are_left() -> None:
    encoder, decoder = nn.Linear(16, 12), nn.Linear(12, 16)
    decoder.weight = nn.Parameter(encoder.weight.t())
    model = nn.Sequential(encoder, decoder, nn.Linear(16, 4))
    obstacles = {entry.names[0]: entry.obstacle for entry in candidates(model)}
    assert obstacles["2.weight"] is None
    expected = "in the same memory as {}, from which it would part: hold one parameter"
    assert obstacles["0.weight"] == expected.format("1.weight")
    assert obstacles["1.weight"] == expected.format("0.weight")
