import copy
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.format.networks import BARE_UNET, OwnNet, randomize, registered, regularized, same_bits
from torch import nn

import tailcut
from tailcut.errors import ArgumentError, CorruptFileError, LimitError, ModelMismatchError, NotTailcutFileError
from tailcut.execution import fuse
from tailcut.format import encode_network
from tailcut.structure import base_of, record_of
from tailcut.weights import truncated_tensors


@pytest.fixture(scope="session")
def large_unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a UNet with 31 million parameters and 759 coefficients."""
    path = tmp_path_factory.mktemp("unet") / "unet.tailcut"
    tailcut.save(regularized("unet", arguments=dict(BARE_UNET), num_kept=33), path, dtype="float16")
    return path


def own_file(folder: Path, **settings: Any) -> Path:
    model = randomize(OwnNet(), 1)
    tailcut.regularize(model, **(settings or {"num_kept": 5}))
    tailcut.save(model, folder / "own.tailcut")
    return folder / "own.tailcut"


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_untouched(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(same_bits(after[key], before[key]) for key in before)
    assert record_of(model).edits == []


MEASURE = """
import resource, sys, tracemalloc
import tailcut

tailcut.load(sys.argv[2])
tracemalloc.start()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tailcut.load(sys.argv[1])
print(tracemalloc.get_traced_memory()[1])
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
print("sympy" in sys.modules)
"""


def test_the_dense_network_is_never_built(large_unet: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.tailcut"
    tailcut.save(regularized("unet", arguments={"widths": (2, 3)}, num_kept=3), small)
    command = [sys.executable, "-c", MEASURE, str(large_unet), str(small)]
    traced, resident, compiler = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert int(traced) < 4_000_000
    assert int(resident) < 16_000_000  # the weights take 124 MB
    # Arithmetic on the meta device would import SymPy and half of torch's compiler: a second or two.
    assert compiler == "False"


def test_the_random_state_stays(large_unet: Path, tmp_path: Path) -> None:
    paths = [large_unet, own_file(tmp_path)]
    for path, into in zip(paths, [None, OwnNet()], strict=True):
        state = torch.random.get_rng_state()
        tailcut.load(path, into=into)
        assert torch.equal(torch.random.get_rng_state(), state)


def test_it_comes_in_evaluation_mode_and_trains_on(tmp_path: Path) -> None:
    path = tmp_path / "a.tailcut"
    tailcut.save(regularized("lenet300", num_kept=20).train(), path)
    model = tailcut.load(path)
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.train()
    model(torch.rand(2, 1, 28, 28)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    schedule = tailcut.TailTruncation(model, num_kept=5, num_steps=1, spacing="geometric")
    schedule.step()
    schedule.finish()
    assert tailcut.save(model, path).num_kept == 15


class WithConstants(nn.Module):
    """Computes constants that a file does not hold: a buffer, a plain attribute, one in a list."""

    def __init__(self, *, width: int = 4) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)
        self.register_buffer("ramp", torch.arange(float(width)), persistent=False)
        self.scale = torch.full((1,), 3.0)
        self.shifts = [{"first": torch.ones(width)}]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shifted: torch.Tensor = self.fc(x) * self.scale + self.ramp + self.shifts[0]["first"]
        return shifted


@pytest.mark.parametrize("kept", [None, 3])
@pytest.mark.parametrize("constants", [("ramp", "scale", "shifts"), ("ramp",), ("scale",), ("shifts",)])
def test_constants_that_files_do_not_hold_are_computed(
    constants: tuple[str, ...], kept: int | None, tmp_path: Path
) -> None:
    class Some(WithConstants):
        def __init__(self, *, width: int = 4) -> None:
            super().__init__(width=width)
            if "ramp" not in constants:
                self.register_buffer("ramp", torch.zeros(()), persistent=True)
            if "scale" not in constants:
                self.scale = 1.0  # type: ignore[assignment]
            if "shifts" not in constants:
                self.shifts = [{"first": 2.0}]  # type: ignore[dict-item]

    with registered("some-constants", Some):
        model = tailcut.create_model("some-constants", width=5).eval()
        if kept is not None:
            tailcut.regularize(model, num_kept=kept)
        tailcut.save(model, tmp_path / "a.tailcut")
        state = torch.random.get_rng_state()
        again = tailcut.load(tmp_path / "a.tailcut")
        assert torch.equal(torch.random.get_rng_state(), state)
        x = torch.rand(3, 5)
        assert torch.equal(again(x), model(x))
        assert tailcut.load(tmp_path / "a.tailcut", into=Some(width=5))(x).equal(model(x))


class Tied(nn.Module):
    def __init__(self, *, width: int = 4) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.second.bias = self.first.bias
        self.register_buffer("ones", torch.ones(2))
        self.inner = nn.Module()
        self.inner.register_buffer("ones", self.get_buffer("ones"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(self.first(x))
        return y


@pytest.mark.parametrize("kept", [None, 9])
def test_tied_tensors_stay_tied(kept: int | None, tmp_path: Path) -> None:
    with registered("tied", Tied):
        model = tailcut.create_model("tied")
        if kept is not None:
            tailcut.regularize(model, num_kept=kept)
        tailcut.save(model, tmp_path / "a.tailcut")
        again = tailcut.load(tmp_path / "a.tailcut")
        assert len(tailcut.inspect(tmp_path / "a.tailcut").other_tensors) == (3 if kept is None else 2)
    assert torch.equal(again(torch.eye(4)), model(torch.eye(4)))
    assert len(list(again.parameters())) == len(list(model.parameters())) == 2
    assert again.get_buffer("ones") is again.get_buffer("inner.ones")


class Frozen(nn.Linear):
    def __init__(self, *, width: int = 3) -> None:
        super().__init__(width, width)
        self.bias.requires_grad_(False)


def test_frozen_parameters_stay_frozen(tmp_path: Path) -> None:
    with registered("frozen", Frozen):
        tailcut.save(tailcut.create_model("frozen"), tmp_path / "a.tailcut")
        again = tailcut.load(tmp_path / "a.tailcut")
    assert [parameter.requires_grad for parameter in again.parameters()] == [True, False]


def test_into_fills_the_users_network(tmp_path: Path) -> None:
    path = own_file(tmp_path)
    model = OwnNet()
    weight = model.embedding.weight
    assert tailcut.load(path, into=model) is model
    assert dict(model.embedding.named_parameters())["parametrizations.weight.original"] is weight
    assert base_of(model) is None
    assert not model.training


def test_into_takes_a_registered_file_of_a_name_unknown_here(tmp_path: Path) -> None:
    with registered("elsewhere", Tied):
        model = tailcut.create_model("elsewhere")
        tailcut.regularize(model, num_kept=3)
        tailcut.save(model, tmp_path / "a.tailcut")
    with pytest.raises(ModelMismatchError, match=r"a\.tailcut: the file names the model 'elsewhere'.*not registered"):
        tailcut.load(tmp_path / "a.tailcut")
    again = tailcut.load(tmp_path / "a.tailcut", into=Tied())
    assert torch.equal(again(torch.eye(4)), model(torch.eye(4)))
    assert base_of(again) is None
    tailcut.save(again, tmp_path / "b.tailcut")
    assert tailcut.inspect(tmp_path / "b.tailcut").model is None


def test_into_of_a_registered_network_stays_registered(tmp_path: Path) -> None:
    model = regularized("lenet300", num_kept=7)
    tailcut.save(model, tmp_path / "a.tailcut")
    again = tailcut.load(tmp_path / "a.tailcut", into=tailcut.create_model("lenet300"))
    base = base_of(again)
    assert base is not None
    assert base.name == "lenet300"
    assert encode_network(again, dtype="float32")[0] == (tmp_path / "a.tailcut").read_bytes()


class Wider(OwnNet):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 7)


class Renamed(OwnNet):
    def __init__(self) -> None:
        super().__init__()
        self.second = self.first
        del self.first


class Less(OwnNet):
    def __init__(self) -> None:
        super().__init__()
        del self.norm


class More(OwnNet):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(2, 2)


class Unfrozen(OwnNet):
    """A buffer became a parameter."""

    def __init__(self) -> None:
        super().__init__()
        limits = self.constants.get_buffer("limits")
        del self.constants.limits
        self.constants.limits = nn.Parameter(limits)


class OtherKind(OwnNet):
    """A table of integers of another type."""

    def __init__(self) -> None:
        super().__init__()
        self.constants.table = self.constants.get_buffer("table").int()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Wider, r"first\.weight: the model has shape \(7, 4\), recorded is \(6, 4\)"),
        (Renamed, r"no parameter 'first\.weight' to regularise; was the code .* another when"),
        (Less, r"a tensor 'norm\.weight', which the network does not have"),
        (More, r"a tensor 'extra\.weight', which the file does not hold"),
        (Unfrozen, "names, shapes or axes"),
        (OtherKind, r"constants\.table is of type torch\.int32 in the network, of type int16 in the file"),
    ],
)
def test_into_a_network_that_does_not_fit_leaves_it_alone(kind: type[nn.Module], message: str, tmp_path: Path) -> None:
    path = own_file(tmp_path)
    model = kind().train()
    before = state_of(model)
    with pytest.raises(ModelMismatchError, match=message) as caught:
        tailcut.load(path, into=model)
    assert str(caught.value).startswith(str(path))
    assert_untouched(model, before)
    assert model.training


def test_into_another_network_than_the_registered_one(tmp_path: Path) -> None:
    tailcut.save(regularized("lenet300", num_kept=7), tmp_path / "a.tailcut")
    for model in (nn.Linear(3, 3), tailcut.create_model("lenet5"), OwnNet()):
        before = state_of(model)
        with pytest.raises(ModelMismatchError):
            tailcut.load(tmp_path / "a.tailcut", into=model)
        assert_untouched(model, before)


def test_into_must_be_fresh_and_real(tmp_path: Path) -> None:
    path = own_file(tmp_path)
    model = OwnNet()
    tailcut.regularize(model, num_kept=5)
    with pytest.raises(ArgumentError, match="fresh network"):
        tailcut.load(path, into=model)
    with torch.device("meta"):
        bare = OwnNet()
    with pytest.raises(ArgumentError, match="meta device"):
        tailcut.load(path, into=bare)
    with pytest.raises(ArgumentError, match="not initialised yet"):
        tailcut.load(path, into=nn.LazyLinear(3))

    class Locked(OwnNet):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

    with pytest.raises(ArgumentError, match="cannot be copied"):
        tailcut.load(path, into=Locked())


def test_layers_made_in_inference_mode_cannot_become_coefficients(tmp_path: Path) -> None:
    path = own_file(tmp_path)
    with torch.inference_mode():
        model = OwnNet()
        before = state_of(model)
        with pytest.raises(ArgumentError, match=r"own.tailcut: into= was made under torch.inference_mode"):
            tailcut.load(path, into=model)
        assert_untouched(model, before)
        assert not record_of(model).edits
    with torch.inference_mode():
        tailcut.load(path, into=randomize_outside())


def test_wrappers_are_named_where_the_file_does_not_fit(tmp_path: Path) -> None:
    path = own_file(tmp_path)
    with pytest.raises(ModelMismatchError, match=r"into= is a DataParallel, a wrapper: load .* in it, its \.module$"):
        tailcut.load(path, into=nn.DataParallel(OwnNet()))
    model = nn.DataParallel(randomize(OwnNet(), 1))
    tailcut.regularize(model, num_kept=5)
    tailcut.save(model, path)
    assert record_of(tailcut.load(path, into=nn.DataParallel(OwnNet()))).edits


def randomize_outside() -> nn.Module:
    with torch.inference_mode(False):
        return randomize(OwnNet(), 2)


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod"])
def test_a_file_of_a_wrapper_says_so(wrapper: str, tmp_path: Path) -> None:
    wrap = nn.DataParallel if wrapper == "module" else partial(torch.compile, backend="eager")
    tailcut.save(wrap(nn.Linear(3, 2)), tmp_path / "a.tailcut", registered=False)  # type: ignore[arg-type]
    with pytest.raises(
        ModelMismatchError, match=rf"was saved from a wrapper .* save the network inside, its \.{wrapper}"
    ):
        tailcut.load(tmp_path / "a.tailcut", into=nn.Linear(3, 2))
    with pytest.raises(ModelMismatchError, match=r"which the network does not have$"):
        tailcut.load(tmp_path / "a.tailcut", into=nn.Linear(3, 2, bias=False))


def test_into_keeps_type_and_frozen_parameters(tmp_path: Path) -> None:
    path = own_file(tmp_path)
    model = OwnNet().double()
    model.first.weight.requires_grad_(False)
    tailcut.load(path, into=model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert not dict(model.first.named_parameters())["parametrizations.weight.original"].requires_grad


@pytest.mark.parametrize("where", ["other tensor", "coefficient"])
def test_numbers_that_do_not_fit_into_the_network_are_refused(where: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    tailcut.regularize(model, num_kept=5)
    spoiled = (
        model.get_buffer("1.running_var") if where == "other tensor" else truncated_tensors(model)[0].vector.detach()
    )
    spoiled[3] = -1e5
    tailcut.save(model, tmp_path / "a.tailcut")
    into = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).half().train()
    before = state_of(into)
    name = r"1\.running_var" if where == "other tensor" else r"0\.weight"
    message = rf"a\.tailcut: {name}: 1e\+05 does not fit into float16, its type in the network; .* network of float32"
    with pytest.raises(ModelMismatchError, match=message):
        tailcut.load(tmp_path / "a.tailcut", into=into)
    assert_untouched(into, before)
    assert into.training
    wide = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).bfloat16()
    tailcut.load(tmp_path / "a.tailcut", into=wide)
    assert all(bool(tensor.isfinite().all()) for tensor in wide.state_dict().values())


def test_infinities_of_the_file_fit_into_any_type(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.bias.detach()[0] = float("-inf")
    tailcut.save(model, tmp_path / "a.tailcut", allow_non_finite=True)
    again = tailcut.load(tmp_path / "a.tailcut", into=nn.Linear(2, 2).half(), allow_non_finite=True)
    assert again.get_parameter("bias")[0] == float("-inf")
    with pytest.raises(CorruptFileError, match=r"a\.tailcut: bias has numbers that are not finite"):
        tailcut.load(tmp_path / "a.tailcut", into=nn.Linear(2, 2).half())


def test_a_class_in_place_of_a_network_is_told_so(tmp_path: Path) -> None:
    tailcut.save(nn.Linear(2, 2), tmp_path / "a.tailcut")
    for into in (nn.Linear, {"weight": 1}):
        with pytest.raises(ArgumentError, match=r"load\(into=\): expected a network"):
            tailcut.load(tmp_path / "a.tailcut", into=into)  # type: ignore[call-overload]


def test_a_registered_network_of_larger_numbers_is_loaded_into_its_type(tmp_path: Path) -> None:
    model = tailcut.create_model("lenet300").double()
    model.get_parameter("fc1.bias").detach()[0] = 1e300
    tailcut.regularize(model, num_kept=50, warn=False)
    tailcut.save(model, tmp_path / "a.tailcut", dtype="float32")
    with pytest.raises(ModelMismatchError, match=r"fc1\.bias: 1e\+300 does not fit into float32.*of float64"):
        tailcut.load(tmp_path / "a.tailcut")
    again = tailcut.load(tmp_path / "a.tailcut", into=tailcut.create_model("lenet300").double())
    assert again.get_parameter("fc1.bias")[0] == 1e300


def test_rounding_is_not_in_the_file_and_can_be_said_again(tmp_path: Path) -> None:
    """The limit, and the way around it, that `load` and docs/file-format.md tell."""
    model = regularized("lenet300", num_kept=30, precision="float16")
    tailcut.save(model, tmp_path / "a.tailcut")
    again = tailcut.load(tmp_path / "a.tailcut").train()
    model.train()
    for network in (model, again):
        for tensor in truncated_tensors(network):
            tensor.vector.detach().mul_(1.0001)  # no longer a float16 number
    x = torch.rand(2, 1, 28, 28)
    assert not torch.equal(again(x), model(x))
    for tensor in truncated_tensors(again):
        assert tensor.truncation.precision == "float32"
        tensor.truncation.precision = "float16"
    assert all(torch.equal(one.coefficients(), one.coefficients().half().float()) for one in truncated_tensors(again))


def test_a_loaded_network_can_be_copied(tmp_path: Path) -> None:
    tailcut.save(regularized("lenet300", num_kept=7), tmp_path / "a.tailcut")
    model = tailcut.load(tmp_path / "a.tailcut")
    x = torch.rand(1, 1, 28, 28)
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_max_parameters_is_the_size_of_the_dense_network(tmp_path: Path) -> None:
    tailcut.save(regularized("lenet300", num_kept=7), tmp_path / "a.tailcut")
    own = own_file(tmp_path)
    size = sum(tensor.numel() for tensor in OwnNet().state_dict().values()) - OwnNet().head.weight.numel()
    tailcut.load(tmp_path / "a.tailcut", max_parameters=266_610)
    tailcut.load(own, into=OwnNet(), max_parameters=size)
    tailcut.inspect(own, max_parameters=size)
    with pytest.raises(
        LimitError, match=r"at most 266609 are allowed; if you trust the file, raise .* max_parameters="
    ):
        tailcut.load(tmp_path / "a.tailcut", max_parameters=266_609)
    with pytest.raises(LimitError, match="max_parameters="):
        tailcut.inspect(tmp_path / "a.tailcut", max_parameters=266_609)
    with pytest.raises(LimitError, match="max_parameters="):
        tailcut.load(own, into=OwnNet(), max_parameters=size - 1)
    with pytest.raises(LimitError, match="max_parameters="):
        tailcut.inspect(own, max_parameters=size - 1)


def test_a_file_larger_than_its_network_can_be_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tailcut"
    with path.open("wb") as file:
        file.write(b"\x89TCT\x01")
        file.truncate(1 << 40)
    for call in (tailcut.load, tailcut.inspect):
        with pytest.raises(LimitError, match=r"a\.tailcut: the file has 1099511627776 bytes, at most \d+ are allowed"):
            call(path)


def test_a_large_file_of_another_kind_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tailcut"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(NotTailcutFileError, match=r"a\.tailcut: not a \.tailcut file"):
        tailcut.load(path)


def test_a_missing_file(tmp_path: Path) -> None:
    for call in (tailcut.load, tailcut.inspect):
        with pytest.raises(FileNotFoundError, match=r"no such file: .*nowhere"):
            call(tmp_path / "nowhere.tailcut")
        with pytest.raises(FileNotFoundError, match="is a folder, not a file"):
            call(tmp_path)


def test_device(tmp_path: Path) -> None:
    tailcut.save(regularized("lenet300", num_kept=7), tmp_path / "a.tailcut")
    model = tailcut.load(tmp_path / "a.tailcut", device="meta")
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    if torch.cuda.is_available():
        on_cuda = tailcut.load(tmp_path / "a.tailcut", device="cuda")
        assert {tensor.device.type for tensor in (*on_cuda.parameters(), *on_cuda.buffers())} == {"cuda"}
        x = torch.rand(1, 1, 28, 28)
        torch.testing.assert_close(on_cuda(x.cuda()).cpu(), tailcut.load(tmp_path / "a.tailcut")(x))


def test_strings_and_paths(tmp_path: Path) -> None:
    tailcut.save(nn.Linear(2, 2), str(tmp_path / "a.tailcut"))
    assert tailcut.load(str(tmp_path / "a.tailcut"), into=nn.Linear(2, 2))


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("way", ["old", "new"])
def test_the_order_of_parameters_may_be_another(way: str, tmp_path: Path) -> None:
    def made() -> nn.Sequential:
        return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 3))

    model = made()
    if way == "old":
        nn.utils.weight_norm(model[0])
        nn.utils.remove_weight_norm(model[0])
    else:
        nn.utils.parametrizations.weight_norm(model[0])
        nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    assert list(model.state_dict())[:2] == ["0.bias", "0.weight"]
    tailcut.save(model, tmp_path / "a.tailcut")
    loaded = tailcut.load(tmp_path / "a.tailcut", into=made())
    assert list(loaded.state_dict())[:2] == ["0.weight", "0.bias"]
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    x = torch.randn(5, 10)
    assert torch.allclose(loaded(x), model.eval()(x))


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(ArgumentError, match=f"there is no device '{device}' here"):
        tailcut.load("zoo:lenet5-776", device=device)


class SharedByData(nn.Module):
    """Two parameters in one memory, as code that ties by `.data` makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.b.weight.data = self.a.weight.data


def test_two_tensors_of_one_memory_cannot_have_two_values(tmp_path: Path) -> None:
    same = SharedByData()
    tailcut.save(same, tmp_path / "same.tailcut")
    assert torch.equal(tailcut.load(tmp_path / "same.tailcut", into=SharedByData()).b.weight, same.a.weight)
    other = SharedByData().double().float()  # which parts them
    other.a.weight.data.fill_(1)
    other.b.weight.data.fill_(2)
    tailcut.save(other, tmp_path / "other.tailcut")
    into = SharedByData()
    before = state_of(into)
    with pytest.raises(ModelMismatchError, match=r"weight and .*weight are two tensors in the same memory"):
        tailcut.load(tmp_path / "other.tailcut", into=into)
    assert_untouched(into, before)


def test_into_made_with_other_arguments_is_refused(tmp_path: Path) -> None:
    tailcut.save(tailcut.create_model("resnet20", normalize="cifar10"), tmp_path / "a.tailcut")
    with pytest.raises(ModelMismatchError, match=r"normalize is 'cifar10' in the file, False in into="):
        tailcut.load(tmp_path / "a.tailcut", into=tailcut.create_model("resnet20"))
    tailcut.load(tmp_path / "a.tailcut", into=tailcut.create_model("resnet20", normalize="cifar10"))


class ReturnsNothing(nn.Linear):
    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.weight.requires_grad_(False)


@pytest.mark.parametrize("names", [None, ["a", "b"]])
def test_a_class_whose_train_returns_nothing(names: list[str] | None, tmp_path: Path) -> None:
    model = ReturnsNothing(3, 2)
    tailcut.set_class_names(model, names)
    tailcut.save(model, tmp_path / "a.tailcut")
    loaded = tailcut.load(tmp_path / "a.tailcut", into=ReturnsNothing(3, 2))
    assert torch.equal(loaded.weight, model.weight)
    assert not loaded.training
    assert fuse(loaded)(torch.ones(1, 3)).shape == (1, 2)


class Holder:
    def __init__(self) -> None:
        self.steps = torch.arange(3.0)


class HoldsAnObject(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.holder = Holder()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale + self.holder.steps


def test_constants_in_a_plain_object_are_computed(tmp_path: Path) -> None:
    with registered("holds-an-object", HoldsAnObject):
        tailcut.save(tailcut.create_model("holds-an-object"), tmp_path / "a.tailcut")
        found = tailcut.load(tmp_path / "a.tailcut")(torch.zeros(3))
    assert found.tolist() == [0, 1, 2]


@pytest.mark.parametrize("num_kept", [None, 50])
def test_a_registered_network_of_float64_comes_back_in_it(num_kept: int | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tailcut.create_model("lenet300").double()
    for parameter in model.parameters():
        parameter.data.add_(1e-10 * torch.randn_like(parameter))  # what float32 does not hold
    if num_kept is not None:
        tailcut.regularize(model, num_kept=num_kept, warn=False)
    tailcut.save(model, tmp_path / "a.tailcut")
    loaded = tailcut.load(tmp_path / "a.tailcut")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float64}
    x = torch.rand(3, 1, 28, 28, dtype=torch.float64)
    torch.testing.assert_close(loaded(x), model.eval()(x), rtol=1e-12, atol=1e-12)
    tailcut.save(model.float(), tmp_path / "b.tailcut", dtype="float64", other_dtype="float64")
    again = tailcut.load(tmp_path / "b.tailcut")  # float32 holds all of these numbers
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
