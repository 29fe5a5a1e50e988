import copy
import io
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tailcut.errors import StructureError
from tailcut.format import load, save
from tailcut.weights import TailTruncation, kept_counts, regularize, to_dense, truncated_tensors, truncation_of
from tailcut.weights.parametrization.attach import detach, set_length


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(24, 5))


def regularised(num_kept: int = 40) -> nn.Sequential:
    model = network()
    regularize(model, num_kept=num_kept)
    return model


IMAGES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
KEY = "0.parametrizations.weight.original"
PICKLERS: list[Callable[[nn.Module], Any]] = [
    pickle.dumps,
    lambda model: torch.save(model, io.BytesIO()),
    lambda model: pickle.dumps({"model": [model]}),
    lambda model: pickle.dumps(model[2]),  # type: ignore[index]
    lambda model: copy.copy(model[0]),  # type: ignore[index]
]


@pytest.mark.parametrize("pickler", PICKLERS)
def test_pickling_is_refused_in_our_words(pickler: Callable[[nn.Module], Any]) -> None:
    with pytest.raises(
        StructureError, match=r"cannot be pickled: use tailcut\.save\(model, 'NAME\.tailcut'\), or torch"
    ):
        pickler(regularised())


def test_what_the_error_recommends_works() -> None:
    model = regularised()
    torch.save(model.state_dict(), io.BytesIO())
    dense = pickle.loads(pickle.dumps(to_dense(model)))
    assert torch.equal(dense(IMAGES), model(IMAGES))


def test_copies_refuse_too_and_plain_ones_do_not() -> None:
    with pytest.raises(StructureError, match="cannot be pickled"):
        pickle.dumps(copy.deepcopy(regularised()))
    pickle.dumps(network())


def test_state_dict_holds_vectors_of_what_counts() -> None:
    model = regularised()
    full = model.state_dict()
    assert set(full) == {KEY, "0.bias", "2.parametrizations.weight.original", "2.bias"}
    assert full[KEY].shape == (40,)
    assert full[KEY].data_ptr() == truncation_of(model, "0.weight").vector.data_ptr()
    TailTruncation(model, num_kept=7, gamma=1.0).step()
    trimmed = model.state_dict()
    assert trimmed[KEY].shape == (7,)
    assert torch.equal(trimmed[KEY], full[KEY][:7])
    assert truncation_of(model, "0.weight").vector.shape == (40,)


def test_a_saved_state_dict_does_not_hold_the_tail() -> None:
    layer = nn.Linear(200, 200, bias=False)
    regularize(layer)
    TailTruncation(layer, num_kept=7, gamma=1.0).step()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    assert file.tell() < 4000
    assert layer.state_dict()["parametrizations.weight.original"].untyped_storage().nbytes() == 7 * 4


def test_state_dict_with_a_prefix_and_kept_variables() -> None:
    model = regularised()
    TailTruncation(model, num_kept=7, gamma=1.0).step()
    prefixed = model.state_dict(prefix="net.", keep_vars=True)
    assert prefixed[f"net.{KEY}"].shape == (7,)


@pytest.mark.parametrize("length", [1, 7, 40, 41, 162])
@pytest.mark.parametrize("assign", [False, True])
def test_loading_adopts_the_length(length: int, assign: bool) -> None:
    source = network()
    regularize(source, num_kept={"0.weight": length, "2.weight": 9})
    model = regularised()
    TailTruncation(model, num_kept=20, gamma=1.0).step()
    vector = truncation_of(model, "0.weight").vector
    model.load_state_dict(source.state_dict(), assign=assign)
    assert kept_counts(model) == kept_counts(source) == {"0.weight": length, "2.weight": 9}
    assert torch.equal(model(IMAGES), source(IMAGES))
    if not assign:
        assert truncation_of(model, "0.weight").vector is vector
        assert vector.grad is None
    model(IMAGES).sum().backward()


def test_loading_from_a_file_goes_on_training() -> None:
    source = regularised()
    TailTruncation(source, num_kept=7, gamma=1.0).step()
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    model = regularised()
    model.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(model(IMAGES), source(IMAGES))
    assert len(truncation_of(model, "0.weight").vector) == 7


@pytest.mark.parametrize("vector", [torch.zeros(163), torch.zeros(0), torch.zeros(3, 3), torch.tensor(1.0)])
def test_vectors_that_cannot_be_are_refused_by_torch(vector: Tensor) -> None:
    model = regularised()
    state = model.state_dict()
    state[KEY] = vector
    with pytest.raises(RuntimeError, match=r"size mismatch for 0\.parametrizations\.weight\.original"):
        model.load_state_dict(state)
    assert kept_counts(model)["0.weight"] == 40


@pytest.mark.parametrize("settings", [{"axes": (0, 1)}, {"order_weights": [1, 1, 2, 2]}])
def test_coefficients_of_another_meaning_are_refused(settings: dict[str, Any]) -> None:
    other = network()
    regularize(other, num_kept=40, include=["0.weight"], **settings)
    stored = io.BytesIO()
    torch.save(other.state_dict(), stored)
    stored.seek(0)
    model = network()
    regularize(model, num_kept=40, include=["0.weight"])
    with pytest.raises(
        RuntimeError, match=rf"0.parametrizations.weight.original holds coefficients of .*{next(iter(settings))}"
    ):
        model.load_state_dict(torch.load(stored, weights_only=True))
    model.load_state_dict(dict(other.state_dict()))  # a plain dict does not tell what its numbers mean


def test_coefficients_of_another_shape_are_refused() -> None:
    small, large = nn.Linear(20, 10), nn.Linear(200, 100)
    regularize(small, num_kept=100)
    regularize(large, num_kept=100)
    with pytest.raises(RuntimeError, match=r"'shape': \(10, 20\).* the model's are of .*'shape': \(100, 200\)"):
        large.load_state_dict(small.state_dict())


def test_partial_state_dicts() -> None:
    model = regularised()
    result = model.load_state_dict({"0.bias": torch.ones(6)}, strict=False)
    assert KEY in result.missing_keys
    assert kept_counts(model)["0.weight"] == 40


HINT = "the state dict has plain weights (0.weight) where the network keeps coefficients; load it first, then call reg"


def test_a_dense_state_dict_gets_a_hint(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*parametrizations"):
        regularised().load_state_dict(network().state_dict())
    assert [record.getMessage()[: len(HINT)] for record in caplog.records] == [HINT]


def test_a_dense_state_dict_is_loaded_in_part_if_strict_is_false(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(regularised())
    state = {f"0.{key}": value + 1 for key, value in network().state_dict().items()}
    before = model.state_dict()[f"0.{KEY}"].clone()
    result = model.load_state_dict(state, strict=False)
    assert result.unexpected_keys == ["0.0.weight", "0.2.weight"]
    assert result.missing_keys == [f"0.{KEY}", "0.2.parametrizations.weight.original"]
    assert torch.equal(model.state_dict()["0.0.bias"], state["0.0.bias"])
    assert torch.equal(model.state_dict()[f"0.{KEY}"], before)
    assert len(caplog.records) == 1


def test_a_dense_layer_gets_the_hint_by_its_own_name(caplog: pytest.LogCaptureFixture) -> None:
    regularised()[0].load_state_dict(network()[0].state_dict(), strict=False)
    assert "plain weights (weight)" in caplog.text


@pytest.mark.parametrize("state", [{}, {"weight": torch.ones(1)}, {"0.parametrizations.weight.0": torch.ones(1)}])
def test_other_state_dicts_get_no_hint(state: dict[str, Tensor], caplog: pytest.LogCaptureFixture) -> None:
    model = regularised()
    model.load_state_dict(state, strict=False)
    model.load_state_dict(model.state_dict())
    assert not caplog.records


def test_assigned_vectors_of_another_type_bring_the_constants_along() -> None:
    source = network().double()
    regularize(source, num_kept=9)
    model = regularised()
    model.load_state_dict(source.state_dict(), assign=True)
    assert truncation_of(model, "0.weight").truncation.basis_type == torch.float64
    torch.testing.assert_close(model(IMAGES.double()), source(IMAGES.double()), rtol=1e-13, atol=1e-13)


def test_hooks_of_a_copy_serve_the_copy() -> None:
    model = regularised()
    copied = copy.deepcopy(model)
    source = regularised(5)
    copied.load_state_dict(source.state_dict())
    assert kept_counts(model) == {"0.weight": 40, "2.weight": 40}
    assert kept_counts(copied) == {"0.weight": 5, "2.weight": 5}
    TailTruncation(model, num_kept=3, gamma=1.0).step()
    assert copied.state_dict()[KEY].shape == (5,)
    assert model.state_dict()[KEY].shape == (3,)


@pytest.mark.parametrize("length", [1, 12, 40, 55, 162])
def test_set_length_keeps_the_first_entries(length: int) -> None:
    model = regularised()
    tensor = truncation_of(model, "0.weight")
    before, vector = tensor.vector.detach().clone(), tensor.vector
    model(IMAGES).sum().backward()
    assert vector.grad is not None
    gathered = vector.grad.clone()
    set_length(tensor.holder, tensor.truncation, length)
    assert tensor.vector is vector
    assert tensor.num_kept == tensor.truncation.length == len(vector) == length
    shared = min(length, 40)
    assert torch.equal(vector[:shared], before[:shared])
    assert torch.all(vector[shared:] == 0)
    assert torch.equal(vector.grad[:shared], gathered[:shared])  # of an accumulation that is under way
    assert vector.grad.shape == vector.shape
    assert torch.all(vector.grad[shared:] == 0)
    model(IMAGES).sum().backward()
    if length == 40:
        torch.testing.assert_close(vector.grad, 2 * gathered)
    vector.grad = None
    set_length(tensor.holder, tensor.truncation, max(1, length - 1))
    assert vector.grad is None


def test_set_length_of_something_else() -> None:
    tensor = truncation_of(regularised(), "0.weight")
    tensor.holder.original = None  # type: ignore[assignment]
    with pytest.raises(StructureError, match="the vector of a regularised parameter was replaced by something else"):
        set_length(tensor.holder, tensor.truncation, 3)


def test_detach_twice_does_nothing_more() -> None:
    layer = nn.Linear(4, 4)
    regularize(layer)
    weight = nn.Parameter(torch.ones(4, 4))
    detach(layer, "weight", weight)
    detach(layer, "weight", nn.Parameter(torch.zeros(4, 4)))
    assert layer.weight is weight
    assert type(layer) is nn.Linear


def test_detach_one_of_two() -> None:
    layer = nn.Linear(4, 4)
    regularize(layer, include="*", num_kept=3)
    detach(layer, "weight", nn.Parameter(torch.ones(4, 4)))
    assert [tensor.name for tensor in truncated_tensors(layer)] == ["bias"]
    assert list(layer._parameters) == ["weight"]
    layer(torch.ones(1, 4)).sum().backward()
    detach(layer, "bias", nn.Parameter(torch.ones(4)))
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert type(layer) is nn.Linear


def with_weight_norm() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 3))


ROWS = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))


def test_a_copy_of_a_parametrised_module_leaves_the_original_alone() -> None:
    model = with_weight_norm()
    expected = model(ROWS)
    copied = copy.deepcopy(model)
    regularize(copied, include=["*bias"])
    assert torch.equal(model(ROWS), expected)
    torch.testing.assert_close(copied(ROWS), expected)
    with pytest.raises(RuntimeError, match="Serialization of parametrized modules is only supported"):
        pickle.dumps(model)  # in torch's words: it is not regularised
    regularize(model, include=["*bias"], num_kept=2)
    assert kept_counts(copied) == {"0.bias": 8, "1.bias": 3}
    torch.testing.assert_close(copied(ROWS), expected)


def test_loading_into_a_parametrised_network(tmp_path: Path) -> None:
    model, into = with_weight_norm(), with_weight_norm()
    regularize(model, include=["*bias"], num_kept=2)
    save(model, tmp_path / "net.tailcut")
    before = into(ROWS)
    loaded = load(tmp_path / "net.tailcut", into=into)
    torch.testing.assert_close(loaded(ROWS), model(ROWS))
    if loaded is not into:
        assert torch.equal(into(ROWS), before)


class Counter:
    """Counts how often each truncation is expanded."""

    def __init__(self, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: dict[str, int] = {}
        for tensor in truncated_tensors(model):
            self._count(tensor.name, tensor.truncation, monkeypatch)

    def _count(self, name: str, truncation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        corner = truncation.corner

        def counted(vector: Tensor) -> Tensor:
            self.counts[name] = self.counts.get(name, 0) + 1
            result: Tensor = corner(vector)
            return result

        monkeypatch.setattr(truncation, "corner", counted)


SEQUENCE = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_computes_its_weights_once_per_forward(
    training: bool, grad: bool, batch_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(8, 2, batch_first=batch_first).train(training)
    model = copy.deepcopy(plain)
    regularize(model)
    counter = Counter(model, monkeypatch)
    with torch.set_grad_enabled(grad):
        for need_weights in (True, False):
            counter.counts.clear()
            result = model(SEQUENCE, SEQUENCE, SEQUENCE, need_weights=need_weights)[0]
            expected = plain(SEQUENCE, SEQUENCE, SEQUENCE, need_weights=need_weights)[0]
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
            kept = not training and not need_weights  # in evaluation those of the first call
            assert counter.counts == ({} if kept else {"in_proj_weight": 1, "out_proj.weight": 1})
    assert all(tensor.truncation.held is None for tensor in truncated_tensors(model))


def test_attention_with_other_widths_computes_its_weights_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.MultiheadAttention(8, 2, kdim=5, vdim=4, batch_first=True)
    regularize(model)
    counter = Counter(model, monkeypatch)
    model(SEQUENCE, torch.ones(2, 4, 5), torch.ones(2, 4, 4))
    names = {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"}
    assert counter.counts == dict.fromkeys(names, 1)


def test_weights_are_not_held_after_an_error() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    regularize(model)
    with pytest.raises(AssertionError, match="expecting embedding dimension of 8"):
        model(torch.ones(1, 2, 9), torch.ones(1, 2, 9), torch.ones(1, 2, 9))
    assert all(tensor.truncation.held is None for tensor in truncated_tensors(model))


def test_attention_follows_its_vectors_and_gives_gradients() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    regularize(model)
    first = model(SEQUENCE, SEQUENCE, SEQUENCE)[0]
    first.sum().backward()
    for tensor in truncated_tensors(model):
        assert tensor.vector.grad is not None
        with torch.no_grad():
            tensor.vector.mul_(2)
    assert not torch.allclose(model(SEQUENCE, SEQUENCE, SEQUENCE)[0], first)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_transformer_encoder(training: bool, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    plain = nn.TransformerEncoder(layer, 2).train(training)
    model = copy.deepcopy(plain)
    report = regularize(model)
    assert len(report.tensors) == 8
    mask = torch.tensor([[False, False, True], [False, True, True]]) if masked else None
    counter = Counter(model, monkeypatch)
    with torch.set_grad_enabled(training):
        result, expected = model(SEQUENCE, src_key_padding_mask=mask), plain(SEQUENCE, src_key_padding_mask=mask)
    kept = ~mask if mask is not None else torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(result[kept], expected[kept], rtol=1e-4, atol=1e-5)
    own = {name: count for name, count in counter.counts.items() if not name.startswith("layers.0")}
    assert own == dict.fromkeys(own, 1)


def test_dense_copies_have_no_hooks() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    own = model.self_attn.register_forward_hook(lambda *arguments: None)
    regularize(model)
    dense = to_dense(model)
    assert all(not module._forward_pre_hooks for module in dense.modules())
    assert len(dense.get_submodule("self_attn")._forward_hooks) == 1
    assert dense.get_submodule("self_attn")._forward_hooks_always_called == {}
    own.remove()
    assert len(model.self_attn._forward_hooks) == 1


def test_threads_without_gradients_do_not_take_those_of_others() -> None:
    model, inputs = nn.LSTM(8, 16), torch.randn(5, 2, 8)
    regularize(model, warn=False)
    inside, outside = threading.Event(), threading.Event()

    def wait(module: nn.Module, args: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            return
        inside.set()
        outside.wait(60)

    def act() -> None:
        with torch.no_grad():
            model(inputs)

    model.register_forward_hook(wait, prepend=True)  # before the hook that lets go of the weights
    actor = threading.Thread(target=act)
    actor.start()
    assert inside.wait(60)
    try:
        output, _ = model(inputs)
        output.square().mean().backward()
    finally:
        outside.set()
        actor.join()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_weights_of_an_interrupted_forward_are_forgotten() -> None:
    torch.manual_seed(0)
    model, other = nn.LSTM(8, 16), nn.LSTM(8, 16)
    regularize(model, warn=False)
    regularize(other, warn=False)
    inputs = torch.randn(5, 2, 8)

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        raise KeyboardInterrupt

    with model.register_forward_hook(stop, prepend=True), pytest.raises(KeyboardInterrupt):
        model(inputs)
    with torch.no_grad():
        for parameter, wanted in zip(model.parameters(), other.parameters(), strict=True):
            parameter.copy_(wanted)
    assert torch.equal(model(inputs)[0], other(inputs)[0])


class Tied(nn.Module):
    """Looks up rows of a table, and multiplies by it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, rows: Tensor) -> Tensor:
        """Scores of the rows."""
        scores: Tensor = self.head(self.table(rows))
        return scores


@pytest.mark.parametrize("num_kept", [30, 160])
@pytest.mark.parametrize("assign", [False, True])
def test_tied_weights_are_one_again_after_loading(num_kept: int, assign: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, rows = Tied(), torch.arange(6)
    regularize(source, num_kept=30, warn=False)
    with torch.device("meta"):
        model = Tied()
    regularize(model, num_kept=num_kept)
    model.to_empty(device="cpu")
    with pytest.raises(StructureError, match=r"table\.weight and head\.weight were tied and are two vectors now"):
        to_dense(model)
    model.load_state_dict(source.state_dict(), assign=assign)
    assert torch.equal(model(rows), source(rows))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(rows).square().mean().backward()
    optimizer.step()
    torch.testing.assert_close(to_dense(model)(rows), model(rows))
    TailTruncation(model, num_kept=10).finish()
    save(model, tmp_path / "a.tailcut")
    torch.testing.assert_close(load(tmp_path / "a.tailcut", into=Tied())(rows), model(rows))


def test_another_parametrisation_is_not_taken_for_ours() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)))
    regularize(model, include=["0.bias"], num_kept=3)
    with pytest.raises(StructureError, match=r"with a parametrisation cannot be pickled.*remove_parametrizations"):
        pickle.dumps(to_dense(model))
