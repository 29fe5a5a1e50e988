"""Weights from checkpoints of other programs."""

import functools
import io
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tailcut.errors import DataError, ModelMismatchError
from tailcut.format.conversion import checkpoints
from tailcut.format.conversion.checkpoints import load_checkpoint, load_plain, read_tensors, read_torch_file
from tailcut.format.conversion.reading import read_checkpoint
from tailcut.structure import create_model


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))


def filled() -> Net:
    torch.manual_seed(7)
    net = Net()
    net(torch.rand(2, 3, 4, 4))
    return net


def state(net: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in net.state_dict().items()}


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module._orig_mod.module."]
)
@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict", "net", "both"])
def test_the_usual_wrappings(prefix: str, key: str | None, tmp_path: Path) -> None:
    source, content = filled(), state(filled(), prefix)
    wrapped: Any = {key: content, "epoch": 3, "optimizer": {"lr": 0.1}} if key else content
    if key == "both":
        wrapped = {"model": {"state_dict": content}}
    torch.save(wrapped, tmp_path / "a.pth")
    net = Net()
    load_checkpoint(tmp_path / "a.pth", net)
    assert same(net, source)


# Not the default backend: it would be imported at once, and warns as that happens.
compiled: Callable[[nn.Module], Any] = functools.partial(torch.compile, backend="eager")
WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "compile of DataParallel": lambda net: compiled(nn.DataParallel(net)),
    "DataParallel of compile": lambda net: nn.DataParallel(compiled(net)),
    "average": AveragedModel,
    "average of compile": lambda net: AveragedModel(compiled(net)),
    "compile of average of DataParallel": lambda net: compiled(AveragedModel(nn.DataParallel(net))),
}


def test_a_network_with_a_compiled_part_is_reported(tmp_path: Path) -> None:
    def whole(net: nn.Module) -> nn.ModuleDict:
        return nn.ModuleDict({"body": net, "head": nn.Linear(2, 2)})

    part_compiled = whole(compiled(filled()))
    torch.save(part_compiled.state_dict(), tmp_path / "a.pt")
    with pytest.raises(ModelMismatchError, match=r"_orig_mod in names is torch.compile's: store the state_dict of"):
        load_checkpoint(tmp_path / "a.pt", whole(Net()))
    again = whole(compiled(Net()))
    load_checkpoint(tmp_path / "a.pt", again)
    assert same(again, part_compiled)


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=str)
def test_the_state_of_wrappers_is_that_of_the_network(wrapper: str, tmp_path: Path) -> None:
    source = filled()
    torch.save(WRAPPERS[wrapper](source).state_dict(), tmp_path / "a.pt")
    net = Net()
    load_checkpoint(tmp_path / "a.pt", net)
    assert same(net, source)
    read = read_tensors(tmp_path / "a.pt")
    assert list(read) == list(source.state_dict())
    assert dict(read._metadata) == dict(source.state_dict()._metadata)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"n_averaged": torch.tensor(3)}, {"n_averaged"}),
        ({"n_averaged": torch.ones(2), "module.w": torch.ones(1)}, {"n_averaged", "module.w"}),
        ({"n_averaged": torch.tensor(3), "w": torch.ones(1)}, {"n_averaged", "w"}),
        ({"n_averaged": torch.tensor(3), "module.w": torch.ones(1)}, {"w"}),
    ],
)
def test_only_the_counter_of_an_average_is_left_out(
    content: dict[str, torch.Tensor], names: set[str], tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "a.pt")
    assert set(read_tensors(tmp_path / "a.pt")) == names


def test_safetensors_and_other_types(tmp_path: Path) -> None:
    source = filled()
    safetensors.torch.save_file(state(source), tmp_path / "a.safetensors")
    net = Net().double()
    load_checkpoint(tmp_path / "a.safetensors", net)
    assert all(parameter.dtype == torch.float64 for parameter in net.parameters())
    assert same(net.float(), source)


def test_parameters_stay_the_same_objects_and_keep_their_settings(tmp_path: Path) -> None:
    torch.save(state(filled()), tmp_path / "a.pt")
    net = Net()
    net[0].weight.requires_grad_(False)
    before = list(net.parameters())
    load_checkpoint(tmp_path / "a.pt", net)
    assert all(one is other for one, other in zip(before, net.parameters(), strict=True))
    assert [parameter.requires_grad for parameter in net.parameters()] == [False, *[True] * 5]


def test_counters_of_batch_norm_may_be_missing(tmp_path: Path) -> None:
    old = {name: value for name, value in state(filled()).items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "a.pt")
    net = Net()
    load_checkpoint(tmp_path / "a.pt", net)
    assert torch.equal(net.state_dict()["1.running_mean"], old["1.running_mean"])


def test_what_does_not_fit_is_listed_and_changes_nothing(tmp_path: Path) -> None:
    content = state(filled())
    del content["2.bias"]
    content["extra.weight"] = torch.zeros(1)
    content["0.weight"] = torch.zeros(5, 3, 1, 1)
    torch.save(content, tmp_path / "a.pt")
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ModelMismatchError) as caught:
        load_checkpoint(tmp_path / "a.pt", net)
    assert str(caught.value) == (
        f"{tmp_path / 'a.pt'} does not fit Net: missing in the file: 2.bias; unknown to the model: extra.weight; "
        "wrong: 0.weight has shape (5, 3, 1, 1) in the file, (4, 3, 1, 1) in the model"
    )
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    torch.save({f"{number}.w": torch.zeros(1) for number in range(9)}, tmp_path / "b.pt")
    with pytest.raises(ModelMismatchError, match=r"3\.w, 4\.w and 4 more"):
        load_checkpoint(tmp_path / "b.pt", net)


class Evil:
    def __reduce__(self) -> Any:
        return print, ("code of a checkpoint ran",)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_numbers_that_are_no_weights_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    """Torch would take quantised weights without their scale, and drop imaginary parts."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    state = model.state_dict()
    torch.save({**state, "0.weight": state["0.weight"].to(dtype)}, tmp_path / "a.pt")
    message = f"does not fit Sequential: 0.weight is {dtype} in the file, torch.float32 in the model"
    with pytest.raises(ModelMismatchError, match=message):
        load_checkpoint(tmp_path / "a.pt", model)


def test_nothing_in_a_file_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "evil.pkl"):
        with pytest.raises(DataError, match=f"cannot read .*{name}"):
            load_checkpoint(tmp_path / name, Net())
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no tensors by name, but a list"),
        ({}, "but an empty dict"),
        ({"state_dict": {}}, "but an empty dict"),
        ({"a": torch.zeros(1), "epoch": 5}, "no checkpoint of weights: 'epoch' is a int"),
        (torch.zeros(3), "but a Tensor"),
    ],
)
def test_files_without_weights(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(DataError, match=message):
        read_tensors(tmp_path / "a.pt")


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"nothing")
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    for name in ("a.pt", "a.safetensors"):
        with pytest.raises(DataError, match="cannot read"):
            read_tensors(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_tensors(tmp_path / "gone.pt")
    with pytest.raises(FileNotFoundError, match="is a folder, not a file"):
        read_tensors(tmp_path)
    with pytest.raises(FileNotFoundError, match="/dev/null is no regular file, but a pipe, a socket or a device"):
        read_tensors("/dev/null")


def test_no_error_advises_to_run_what_a_file_says(tmp_path: Path) -> None:
    torch.save(Net(), tmp_path / "module.pt")
    torch.save({"code": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "noise.pt").write_bytes(b"nothing")
    (tmp_path / "empty.pt").write_bytes(b"")
    whole = tmp_path / "whole.pt"
    torch.save(state(Net()), whole)
    (tmp_path / "cut.pt").write_bytes(whole.read_bytes()[:200])
    for name in ("module", "evil", "noise", "empty", "cut"):
        for read in (read_tensors, read_torch_file):
            with pytest.raises(
                DataError, match=rf"cannot read .*{name}\.pt: it is damaged, or .*(Error|BadZipFile)\)"
            ) as caught:
                read(tmp_path / f"{name}.pt")
            assert "save model.state_dict() instead" in str(caught.value)
            assert "weights_only" not in str(caught.value)
            assert "likely succeed" not in str(caught.value)
    with pytest.raises(DataError, match=r"cannot read .*gone\.pt: .*No such file"):
        read_torch_file(tmp_path / "gone.pt")


def test_the_published_resnet(weights_root: Path) -> None:
    """akamaster's checkpoints: `module.` before every key, under `state_dict`."""
    for name in ("resnet20", "resnet56"):
        model = create_model(name, normalize=True)
        load_checkpoint(weights_root / "weights" / f"{name}-cifar10.th", model)
        assert float(model.state_dict()["bn1.running_var"].min()) > 0


def test_a_packed_file_that_expands_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch writes tensors as they are, but its reader expands what is packed: 200 times and more."""
    torch.save({"a": torch.zeros(1 << 18)}, tmp_path / "a.pt")
    packed = zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "a.pt") as plain, packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert (tmp_path / "b.pt").stat().st_size < 1 << 14
    assert read_torch_file(tmp_path / "b.pt")["a"].shape == (1 << 18,)
    monkeypatch.setattr(checkpoints, "MAX_EXPANDED_BYTES", 1 << 16)
    with pytest.raises(DataError, match=r"is packed and expands to 1,0\d\d,\d\d\d bytes, at most 65,536 are read"):
        read_torch_file(tmp_path / "b.pt")
    read_torch_file(tmp_path / "a.pt")  # as large as it says


def test_a_damaged_archive_is_reported(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(9)}, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    place = content.index(b"PK\1\2")  # of the list of members
    (tmp_path / "a.pt").write_bytes(content[:place] + b"XX" + content[place + 2 :])
    with pytest.raises(DataError, match="cannot read"):
        read_torch_file(tmp_path / "a.pt")
    with pytest.raises(DataError, match="it is damaged"):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("module", [b"builtins", b"__builtin__"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_that_says_how_much_memory_to_take_takes_none(module: bytes, is_zip: bool, tmp_path: Path) -> None:
    path, size = tmp_path / "a.pt", 1 << 28
    content = b"\x80\x02}X\x01\x00\x00\x00ac" + module + b"\nbytearray\n\x8a\x08" + struct.pack("<q", size) + b"\x85Rs."
    if is_zip:
        with zipfile.ZipFile(path, "w") as archive:
            for name, member in (("data.pkl", content), ("version", b"3\n"), ("byteorder", b"little")):
                archive.writestr(f"archive/{name}", member)
    else:
        torch.save({}, path, _use_new_zipfile_serialization=False)
        empty = pickle.dumps({}, protocol=2)
        assert path.read_bytes().count(empty) >= 1
        path.write_bytes(path.read_bytes().replace(empty, content))
    tracemalloc.start()
    try:
        for read in (read_torch_file, read_checkpoint):
            with pytest.raises(DataError, match="holds other things than tensors and plain values"):
                read(path)
        assert tracemalloc.get_traced_memory()[1] < size // 16
    finally:
        tracemalloc.stop()


def legacy(state: object) -> bytes:
    made = io.BytesIO()
    torch.save(state, made, _use_new_zipfile_serialization=False)
    return made.getvalue()


HUGE = b"\x8a\x05\x00\x00\x00\x00\x01"  # 2^32


def test_an_old_file_has_no_more_bytes_in_tensors_than_itself(tmp_path: Path) -> None:
    """Torch takes as much memory as a storage is said to have, 16 GiB here, and writes to all of it."""
    path = tmp_path / "a.pt"
    content = legacy({"w": torch.zeros(77)})
    assert content.count(b"KMN") == 1  # the numbers of the storage, and no view of another
    path.write_bytes(content)
    assert read_checkpoint(path)["w"].shape == (77,)
    path.write_bytes(content.replace(b"KMN", HUGE + b"N"))
    with pytest.raises(DataError, match=r"cannot read .*a\.pt: it is damaged"):
        read_checkpoint(path)
    with pytest.raises(DataError, match="its tensors have 17,179,869,184 bytes, the file "):
        load_plain(path)


def test_a_tensor_does_not_enlarge_its_storage(tmp_path: Path) -> None:
    path, content = tmp_path / "a.pt", legacy({"w": torch.zeros(77)})
    assert content.count(b"KM\x85") == 1  # its size
    path.write_bytes(content.replace(b"KM\x85", HUGE + b"\x85"))
    with pytest.raises(DataError, match=r"cannot read .*a\.pt: it is damaged"):
        read_checkpoint(path)
    with pytest.raises(RuntimeError, match="storage that is not resizable"):
        load_plain(path)


def test_storages_that_several_tensors_share_count_once() -> None:
    weight = torch.rand(64, 64)
    state = {str(number): weight[number:] for number in range(50)} | {"step": 10**15}
    loaded = load_plain(io.BytesIO(legacy(state)))
    assert torch.equal(loaded["7"], weight[7:])
    assert loaded["step"] == 10**15


def test_a_negative_size_is_refused(tmp_path: Path) -> None:
    """Torch takes it where another size is 0."""
    path, content = tmp_path / "a.pt", legacy({"w": torch.zeros(0, 77)})
    assert content.count(b"KM\x86") == 1
    path.write_bytes(content.replace(b"KM\x86", b"J\x00\x00\x00\x80\x86"))
    with pytest.raises(DataError, match=r"is damaged: 'w' has the shape \(0, -2147483648\)"):
        read_checkpoint(path)


def test_an_archive_with_a_name_in_no_alphabet_is_damaged(tmp_path: Path) -> None:
    """Python's reader of archives tells so by an error of its own kind."""
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/d\u00e4ta.pkl", b"")  # the letter makes the name one of UTF-8
    path.write_bytes(path.read_bytes().replace("\u00e4".encode(), b"\xb7\xb7"))
    for read in (read_torch_file, read_checkpoint):
        with pytest.raises(DataError, match=r"a\.pt: it is damaged"):
            read(path)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_a_program_is_told_from_weights(tmp_path: Path) -> None:
    torch.jit.script(filled()).save(tmp_path / "a.pt")
    with pytest.raises(DataError, match=r"a\.pt: it is TorchScript, a program: save the state_dict"):
        read_torch_file(tmp_path / "a.pt")
    program = torch.export.export(filled().eval(), (torch.rand(2, 3, 4, 4),))
    torch.export.save(program, tmp_path / "a.pt2")
    with pytest.raises(DataError, match=r"a\.pt2: it is an exported program: save the state_dict"):
        read_torch_file(tmp_path / "a.pt2")


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_a_dict_that_holds_itself_is_no_checkpoint(key: str, tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content[key] = content
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(DataError, match=f"'{key}' is a dict"):
        read_tensors(tmp_path / "a.pt")


def test_prefixes_are_taken_off_a_bounded_number_of_times(tmp_path: Path) -> None:
    torch.save({"module." * 20_000 + "w": torch.zeros(1)}, tmp_path / "a.pt")
    (name,) = read_tensors(tmp_path / "a.pt")
    assert name == "module." * (20_000 - checkpoints.MAX_WRAPPINGS) + "w"


def test_a_packed_pickle_that_expands_is_refused(tmp_path: Path) -> None:
    """Each of its bytes would be an object."""
    content = b"\x80\x02(" + b"]" * checkpoints.MIN_PICKLE_BYTES + b"l."
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", content)
        archive.writestr("a/version", b"3\n")
    with pytest.raises(DataError, match="damaged"):
        read_torch_file(tmp_path / "a.pt")
    with pytest.raises(DataError, match=r"data\.pkl expands to 1,048,581 bytes"):
        load_plain(tmp_path / "a.pt")


def odd_parameter() -> nn.Parameter:
    parameter = nn.Parameter(torch.ones(2, 3))
    parameter.detach = 5  # type: ignore[assignment, method-assign]
    return parameter


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (lambda: torch.ones(2, 3).to_sparse(), "'weight' is a sparse tensor"),
        (lambda: torch.ones(2, 3).to_sparse_csr(), "'weight' is a sparse tensor"),
        (lambda: torch.empty(2, 3, device="meta"), "'weight' has no numbers"),
    ],
)
def test_tensors_without_plain_numbers_are_refused(
    weight: Callable[[], torch.Tensor], message: str, tmp_path: Path
) -> None:
    torch.save({"bias": torch.ones(2), "weight": weight()}, tmp_path / "a.pt")
    net = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(DataError, match=message):
        load_checkpoint(tmp_path / "a.pt", net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_attributes_that_a_file_sets_on_a_tensor_count_for_nothing() -> None:
    tensors = checkpoints.named_tensors({"weight": odd_parameter()}, "a.pt")
    assert torch.equal(tensors["weight"], torch.ones(2, 3))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.b.weight = self.a.weight
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": torch.full((1,), 3.7)}, "count is torch.float32 in the file, torch.int64"),
        ({"count": torch.full((1,), 3 + 2j)}, "count is torch.complex64"),
        ({"b.weight": torch.zeros(2, 2)}, "a.weight and b.weight are one parameter"),
        ({"a.weight": torch.full((2, 2), 1e6), "b.weight": torch.full((2, 2), 1e6)}, "does not fit into torch.float16"),
    ],
)
def test_numbers_that_would_change_are_refused(change: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    net = Tied().half()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.save({**before, **change}, tmp_path / "a.pt")
    with pytest.raises(ModelMismatchError, match=message):
        load_checkpoint(tmp_path / "a.pt", net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_numbers_that_are_none_are_read(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    tensors = {name: value.clone() for name, value in net.state_dict().items()}
    for name in ("0.weight", "1.weight"):
        tensors[name][0, 0] = float("nan")
    torch.save(tensors, tmp_path / "a.pt")
    load_checkpoint(tmp_path / "a.pt", net)
    assert net.state_dict()["0.weight"].isnan().sum() == 1
    tensors["1.weight"][0, 1] += 1
    torch.save(tensors, tmp_path / "a.pt")
    with pytest.raises(ModelMismatchError, match=r"0\.weight and 1\.weight are one parameter of the model"):
        load_checkpoint(tmp_path / "a.pt", net)


def test_damaged_members_are_seen_by_their_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"weight": torch.arange(1000.0)}, path)
    content = bytearray(path.read_bytes())
    place = content.index(torch.tensor([500.0, 501.0]).numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert torch.load(path)["weight"][500] != 500  # torch takes it
    with pytest.raises(DataError, match=r"it is damaged: Bad CRC-32 for file 'a/data/0'"):
        read_torch_file(path)


def test_archives_without_checksums_are_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.arange(10.0)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(read_torch_file(tmp_path / "a.pt")["weight"], torch.arange(10.0))


def test_tied_weights_may_be_stored_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, model = (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(2))
    for net in (source, model):
        net[1].weight = net[0].weight
    safetensors.torch.save_model(source, str(tmp_path / "a.safetensors"))
    assert len(read_tensors(tmp_path / "a.safetensors")) == 3
    load_checkpoint(tmp_path / "a.safetensors", model)
    inputs = torch.randn(3, 4)
    assert torch.equal(model(inputs), source(inputs))
    untied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(ModelMismatchError, match=r"missing in the file: [01]\.weight"):
        load_checkpoint(tmp_path / "a.safetensors", untied)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_unsigned_whole_numbers_are_read_or_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    state = model.state_dict()
    state["1.num_batches_tracked"] = torch.tensor(40_000).to(dtype)
    torch.save(state, tmp_path / "a.pt")
    load_checkpoint(tmp_path / "a.pt", model)
    assert int(model.state_dict()["1.num_batches_tracked"]) == 40_000
    small = nn.Linear(3, 2)
    small.register_buffer("small", torch.zeros(2, dtype=torch.int8))
    torch.save({**small.state_dict(), "small": torch.tensor([3, 40_000]).to(dtype)}, tmp_path / "b.pt")
    with pytest.raises(ModelMismatchError, match=r"small has 4e\+04, which does not fit into torch\.int8"):
        load_checkpoint(tmp_path / "b.pt", small)


def test_complex_numbers_are_read_or_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("frequencies", torch.polar(torch.ones(3), torch.arange(3.0)))
    expected = model.state_dict()["frequencies"].clone()
    torch.save(model.state_dict(), tmp_path / "a.pt")
    model.get_buffer("frequencies").zero_()
    load_checkpoint(tmp_path / "a.pt", model)
    assert torch.equal(model.get_buffer("frequencies"), expected)
    wide = {**model.state_dict(), "frequencies": torch.tensor([1, 2j, 1e300 + 1j], dtype=torch.complex128)}
    torch.save(wide, tmp_path / "b.pt")
    with pytest.raises(ModelMismatchError, match=r"frequencies has 1e\+300, which does not fit into torch\.complex64"):
        load_checkpoint(tmp_path / "b.pt", model)


@pytest.mark.parametrize("name", ["a.bin", "a.SAFETENSORS", "a", "a.pt"])
def test_files_of_safetensors_are_known_by_what_they_hold(name: str, tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    safetensors.torch.save_file({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, tmp_path / name)
    load_checkpoint(tmp_path / name, model)
    assert torch.equal(model.weight, torch.ones(2, 3))


def test_files_of_another_name_and_lists_of_files_are_told(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    torch.save(model.state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=r"is a file of torch\.save: give it another name, such as a\.pt"):
        load_checkpoint(tmp_path / "a.safetensors", model)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(DataError, match="lists the files that a checkpoint is split into: give these"):
        load_checkpoint(tmp_path / "model.safetensors.index.json", model)
