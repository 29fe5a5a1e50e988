import copy
import functools
import logging
import random
import re
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.format.networks import BARE_UNET, OwnNet, randomize, registered, regularized, vectors
from torch import nn
from torch.optim.swa_utils import AveragedModel

import tailcut
from tailcut import limits
from tailcut.channels import score
from tailcut.errors import ArgumentError, CorruptFileError, StructureError, TailcutError
from tailcut.format import codecs, encode_network
from tailcut.format.container.contents import decode
from tailcut.inputs import YCbCrPixels, use_ycbcr
from tailcut.weights import TailTruncation, budget, truncated_tensors

FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("lenet300", {"bias": False}),
    ("lenet5", {"bias": False}),
    ("unet", dict(BARE_UNET)),
]
# Coefficients in all of the paper's rows, and of networks in between.
TOTALS = {"lenet300": (4238, 2816), "lenet5": (7668, 776), "unet": (310_964, 31_096, 2936, 759)}


def overhead(model: nn.Module, dtype: str = "float16") -> tuple[int, int]:
    """Bytes of the file that are not payload, and what they may be at most."""
    content, tensors = encode_network(model, dtype=dtype)
    streams = decode(content)
    assert streams.other_streams == ()
    assert streams.coefficients is not None
    return len(content) - len(streams.coefficients.payload), 48 + len(tensors.coefficients)


@pytest.mark.parametrize(("name", "arguments"), FAMILIES, ids=lambda value: str(value)[:8])
@pytest.mark.parametrize("chosen", [{"num_kept": 33}, {"num_kept": 5000}, {"keep_ratio": 0.01}, {"keep_ratio": 1e-4}])
def test_a_rule_costs_few_bytes(name: str, arguments: dict[str, Any], chosen: dict[str, Any]) -> None:
    bytes_used, allowed = overhead(regularized(name, arguments=arguments, **chosen))
    assert bytes_used <= allowed


@pytest.mark.parametrize(("name", "total"), [(name, total) for name, rows in TOTALS.items() for total in rows])
@pytest.mark.parametrize("rule", ["equal", "proportional"])
def test_the_rows_of_the_paper_cost_few_bytes(name: str, total: int, rule: str) -> None:
    model = tailcut.create_model(name, **dict(FAMILIES)[name])
    tailcut.regularize(model, num_kept=budget(model, total, rule=rule))
    bytes_used, allowed = overhead(model)
    assert bytes_used <= allowed


@pytest.mark.parametrize("largest", [127, 1000])
@pytest.mark.parametrize(("name", "arguments"), FAMILIES, ids=lambda value: str(value)[:8])
def test_counts_without_a_rule_cost_few_bytes(name: str, arguments: dict[str, Any], largest: int) -> None:
    source = random.Random(largest)
    model = tailcut.create_model(name, **arguments)
    counts = {key: source.randint(1, min(largest, p.numel())) for key, p in model.named_parameters()}
    tailcut.regularize(model, num_kept=counts)
    bytes_used, allowed = overhead(model)
    assert bytes_used <= allowed


def test_order_weights_of_kernels_cost_few_bytes() -> None:
    arguments = {"bias": False, "convolutional": True, "conv_relu": True}
    model = regularized("lenet5", arguments=arguments, num_kept=194, order_weights=(1, 1, 3, 3))
    bytes_used, allowed = overhead(model)
    assert bytes_used <= allowed


def test_names_of_ones_own_class_are_packed() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)) for _ in range(100)))
    content, tensors = encode_network(model, dtype="float32")
    names = sum(len(other.name) for other in tensors.others)
    payloads = sum(len(stream.payload) for stream in decode(content).other_streams)
    assert len(content) - payloads < names / 3


def test_report_says_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "lenet.tailcut"
    report = tailcut.save(regularized("lenet300", num_kept=100), path, dtype="float16")
    assert report.file_bytes == path.stat().st_size
    assert (report.out, report.num_kept, report.num_parameters) == (str(path), 300, 266_610)
    assert (report.num_truncated, report.dense_bytes) == (266_200, 4 * 266_610)
    assert report.compression_ratio == pytest.approx(4 * 266_610 / path.stat().st_size, rel=1e-4)
    assert "300 coefficients for 266,200 of 266,610 parameters" in str(report)
    assert f"{report.file_bytes:,} bytes for 1,066,440 of dense float32 parameters" in str(report)
    plain = tailcut.save(tailcut.create_model("unet", widths=(1, 2)), path)
    assert plain.num_kept == plain.num_truncated == 0
    assert plain.compression_ratio == pytest.approx(4 * plain.num_parameters / path.stat().st_size, rel=1e-4)


def test_the_ratio_of_a_network_that_is_mostly_left_is_that_of_its_bytes(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(100, 20), nn.PReLU(50_000))
    tailcut.regularize(model, keep_ratio=0.1)
    report = tailcut.save(model, tmp_path / "a.tailcut")
    assert report.compression_ratio is not None
    assert report.compression_ratio < 1.3 or report.file_bytes < 10_000


class OwnNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.mask: torch.Tensor
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["norm.weight", "norm.running_var"])
def test_numbers_that_are_not_finite_are_written_and_read_on_request_only(
    name: str, value: float, tmp_path: Path
) -> None:
    model, path = OwnNormed(), tmp_path / "a.tailcut"
    model.state_dict()[name][1] = value
    with pytest.raises(ArgumentError, match=rf"{name} has numbers that are not finite.*allow_non_finite=True"):
        tailcut.save(model, path)
    assert not path.exists()
    tailcut.save(model, path, allow_non_finite=True)
    with pytest.raises(CorruptFileError, match=rf"{name} has numbers that are not finite.*allow_non_finite=True"):
        tailcut.load(path, into=OwnNormed())
    again = tailcut.load(path, into=OwnNormed(), allow_non_finite=True)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), equal_nan=True)


def test_masks_may_be_infinite_but_not_nan(tmp_path: Path) -> None:
    model, path = OwnNormed(), tmp_path / "a.tailcut"
    tailcut.save(model, path)
    assert torch.equal(tailcut.load(path, into=OwnNormed()).get_buffer("mask"), model.mask)
    model.mask[0] = torch.nan
    with pytest.raises(ArgumentError, match="mask has numbers that are not finite"):
        tailcut.save(model, path)


def test_slips_get_an_answer(tmp_path: Path) -> None:
    model: Any = nn.Linear(2, 2)
    path: Any = tmp_path / "a.tailcut"
    for first, second, answer in [
        (path, model, "the network comes first"),
        (str(path), model, "the network comes first"),
        (model.state_dict(), path, "got a dict: a state_dict does not describe the layers"),
        (nn.Linear, path, r"got its class; make one: Linear\(...\)"),
        ([model], path, r"expected a network \(a torch.nn.Module\), got list"),
        (model, None, "expected the name of the file to write, got NoneType"),
    ]:
        with pytest.raises(ArgumentError, match=answer):
            tailcut.save(first, second)


def test_it_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tailcut"):
        tailcut.save(nn.Linear(2, 2), tmp_path / "a.tailcut")
    assert "a.tailcut" in caplog.text


def test_coefficients_of_float64_stay_as_they_are(tmp_path: Path) -> None:
    model = regularized("lenet5", num_kept=20).double()
    with torch.no_grad():
        for tensor in truncated_tensors(model):
            tensor.vector.div_(3)  # float32 does not hold these
    tailcut.save(model, tmp_path / "a.tailcut")
    loaded = vectors(tailcut.load(tmp_path / "a.tailcut", into=tailcut.create_model("lenet5").double()))
    for name, vector in vectors(model).items():
        assert torch.equal(loaded[name], vector)
    tailcut.save(model, tmp_path / "b.tailcut", dtype="float32")
    assert (tmp_path / "b.tailcut").stat().st_size < (tmp_path / "a.tailcut").stat().st_size


def test_the_model_is_not_changed(tmp_path: Path) -> None:
    model = regularized("lenet5", num_kept=20).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    tailcut.save(model, tmp_path / "a.tailcut", dtype="float16")
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_masked_tails_are_not_written(tmp_path: Path) -> None:
    model = regularized("lenet300", num_kept=500)
    schedule = TailTruncation(model, num_kept=20, num_steps=4, spacing="geometric")
    schedule.step()
    kept = {entry.name: entry.num_kept for entry in truncated_tensors(model)}
    assert 20 < kept["fc1.weight"] < 500
    tailcut.save(model, tmp_path / "a.tailcut")
    again = tailcut.load(tmp_path / "a.tailcut")
    for name, vector in vectors(again).items():
        assert len(vector) == kept[name]
        assert torch.equal(vector, vectors(model)[name])


def test_rounded_coefficients_are_written_as_the_forward_uses_them(tmp_path: Path) -> None:
    model = regularized("lenet300", num_kept=30, precision="float16").eval()
    tailcut.save(model, tmp_path / "a.tailcut", dtype="float16")
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(tailcut.load(tmp_path / "a.tailcut")(x), model(x))


def test_registered_false_writes_a_class_of_ones_own(tmp_path: Path) -> None:
    model = regularized("lenet300", num_kept=30)
    path = tmp_path / "a.tailcut"
    tailcut.save(model, path, registered=False)
    assert tailcut.inspect(path).model is None
    with pytest.raises(ArgumentError, match=r"a\.tailcut: .*load\(path, into="):
        tailcut.load(path)
    again = tailcut.load(path, into=tailcut.create_model("lenet300"))
    assert torch.equal(vectors(again)["fc1.weight"], vectors(model)["fc1.weight"])


def _rename(model: Any) -> None:
    model.fc4 = model.fc3
    del model.fc3


def _make_bias_a_buffer(model: Any) -> None:
    del model.fc3.bias
    model.fc3.register_buffer("bias", torch.zeros(10))


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "replaced": (lambda m: setattr(m, "fc3", nn.Linear(100, 11)), r"fc3\.weight has shape \(11, 100\) instead of"),
    "renamed": (_rename, r"fc3\.weight is missing"),
    "parameter": (lambda m: m.register_parameter("scale", nn.Parameter(torch.ones(1))), "scale is new"),
    "buffer": (lambda m: m.register_buffer("count", torch.zeros(1)), "count is new"),
    "layer": (lambda m: setattr(m, "drop", nn.Dropout()), "module drop is new"),
    "removed": (lambda m: setattr(m, "fc3", nn.Sequential()), r"fc3\.weight is missing"),
    "of another kind": (_make_bias_a_buffer, "another kind"),
}


@pytest.mark.parametrize("regular", [False, True], ids=["plain", "regularised"])
@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_changed_registered_model_is_refused(change: str, regular: bool, tmp_path: Path) -> None:
    model = tailcut.create_model("lenet300")
    if regular:
        tailcut.regularize(model, num_kept=20, include=["fc1.weight", "fc2.weight"])
    edit, message = CHANGES[change]
    edit(model)
    path = tmp_path / "a.tailcut"
    with pytest.raises(StructureError, match=message) as caught:
        tailcut.save(model, path)
    assert "no longer the registered 'lenet300'" in str(caught.value)
    assert not path.exists()
    tailcut.save(model, path, registered=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m.inc.double_conv[0], "stride", (2, 2)), r"stride=\(2, 2\) instead of \(1, 1\)"),
        (lambda m: m.inc.double_conv.__setitem__(2, nn.GELU()), "is a GELU instead of a ReLU"),
        (lambda m: setattr(m.inc.double_conv[1], "eps", 0.5), "eps=0.5"),
    ],
)
def test_layers_of_the_same_shapes_are_compared(change: Any, message: str) -> None:
    model = tailcut.create_model("unet", widths=(2, 3))
    tailcut.regularize(model, num_kept=2)
    change(model)
    with pytest.raises(StructureError, match=message):
        encode_network(model, dtype="float32")


def test_settings_of_training_may_change() -> None:
    model = tailcut.create_model("unet", widths=(2, 3))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.01
    model.requires_grad_(False)
    assert encode_network(model, dtype="float32")[0]


def test_a_regularised_part_or_wrapper_is_refused(tmp_path: Path) -> None:
    part = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    tailcut.regularize(part[0], num_kept=3)
    with pytest.raises(StructureError, match=r"0\.weight is regularised, but not by a call on this model"):
        tailcut.save(part, tmp_path / "a.tailcut")
    inner = regularized("lenet300", num_kept=3)
    averaged = AveragedModel(inner)
    with pytest.raises(StructureError, match=r"of a wrapper its \.module"):
        tailcut.save(averaged, tmp_path / "a.tailcut")
    assert tailcut.save(averaged.module, tmp_path / "a.tailcut").num_kept == 9


# Not the default backend: it would be imported at once, and warns as that happens.
compiled: Callable[[nn.Module], Any] = functools.partial(torch.compile, backend="eager")
WRAPPERS: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "DataParallel": (nn.DataParallel, r"its \.module"),
    "compile": (compiled, r"its \._orig_mod"),
    "compile of DataParallel": (lambda model: compiled(nn.DataParallel(model)), r"its \._orig_mod\.module"),
    "DataParallel of a view": (lambda model: nn.DataParallel(tailcut.fuse(model)), r"its \.module"),
}


def truncated() -> nn.Module:
    return regularized("lenet5", num_kept=9)


def slim() -> nn.Module:
    model = tailcut.create_model("lenet5")
    tailcut.prune(model, torch.zeros(1, 1, 28, 28), score(model, [], method="l1"), 0.2)
    return model


def other_stem() -> nn.Module:
    model = tailcut.create_model("resnet20")
    use_ycbcr(model, YCbCrPixels(), image_size=32)
    return model


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=str)
@pytest.mark.parametrize(("make", "kind"), [(truncated, "regularize"), (slim, "prune"), (other_stem, "ycbcr")])
def test_wrappers_of_edited_networks_are_refused(
    make: Callable[[], nn.Module], kind: str, wrapper: str, tmp_path: Path
) -> None:
    wrap, advice = WRAPPERS[wrapper]
    model = make()
    for with_name in (True, False):
        message = rf"is a wrapper: save the network that the edit '{kind}' was made on, {advice}$"
        with pytest.raises(StructureError, match=message):
            tailcut.save(wrap(model), tmp_path / "a.tailcut", registered=with_name)
    assert not (tmp_path / "a.tailcut").exists()
    tailcut.save(model, tmp_path / "a.tailcut")
    x = torch.rand(2, 1, 28, 28) if kind != "ycbcr" else torch.rand(2, 3, 32, 32)
    assert torch.equal(tailcut.load(tmp_path / "a.tailcut")(x), model.eval()(x))


def test_in_inference_mode(tmp_path: Path) -> None:
    """As in a function that evaluates: what is loaded there can be trained and saved."""
    with torch.inference_mode():
        model = tailcut.load("zoo:lenet5-776")
        tailcut.save(model, tmp_path / "a.tailcut", dtype="float16")
    model(torch.rand(1, 1, 28, 28)).sum().backward()
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(tailcut.load(tmp_path / "a.tailcut")(x), model(x))


def test_a_network_that_was_made_in_inference_mode(tmp_path: Path) -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
        x = torch.rand(2, 4)
    tailcut.save(model, tmp_path / "a.tailcut")
    tailcut.save(model, tmp_path / "b.tailcut", step=0.001)
    for name, tolerance in {"a": 0.0, "b": 0.01}.items():
        loaded = tailcut.load(tmp_path / f"{name}.tailcut", into=nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
        with torch.inference_mode():
            torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=tolerance)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    model = torch.jit.trace(nn.Linear(3, 2), torch.rand(1, 3))
    with pytest.raises(StructureError, match=r"save the torch.nn.Module that it was made from"):
        tailcut.save(model, tmp_path / "a.tailcut")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrapper", ["DataParallel", "compile", "compile of DataParallel"])
def test_wrappers_of_registered_networks_are_refused(wrapper: str, tmp_path: Path) -> None:
    wrap, advice = WRAPPERS[wrapper]
    with pytest.raises(StructureError, match=rf"is a wrapper: save the registered network 'lenet300' in it, {advice};"):
        tailcut.save(wrap(tailcut.create_model("lenet300")), tmp_path / "a.tailcut")
    assert not (tmp_path / "a.tailcut").exists()


def test_wrappers_may_be_classes_of_ones_own(tmp_path: Path) -> None:
    model = randomize(tailcut.create_model("lenet300"), 1)
    path = tmp_path / "a.tailcut"
    tailcut.save(nn.DataParallel(model), path, registered=False)
    again = nn.DataParallel(tailcut.create_model("lenet300"))
    tailcut.load(path, into=again)
    assert torch.equal(again.get_parameter("module.fc1.weight"), model.get_parameter("fc1.weight"))
    tailcut.save(nn.DataParallel(nn.Linear(2, 2)), path)
    tailcut.load(path, into=nn.DataParallel(nn.Linear(2, 2)))
    whole = nn.DataParallel(tailcut.create_model("lenet300"))
    tailcut.regularize(whole, num_kept=9)
    tailcut.save(whole, path)
    tailcut.load(path, into=nn.DataParallel(tailcut.create_model("lenet300")))


@pytest.mark.parametrize("wrapper", ["DataParallel", "compile", "compile of DataParallel"])
def test_a_wrapper_whose_names_are_stored_is_told(
    wrapper: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrap, advice = WRAPPERS[wrapper]
    tailcut.save(nn.Linear(2, 2), tmp_path / "a.tailcut")
    tailcut.save(wrap(nn.Linear(2, 2)), tmp_path / "a.tailcut", registered=False)
    assert not caplog.text
    tailcut.save(wrap(nn.Linear(2, 2)), tmp_path / "a.tailcut")
    assert re.search(rf"is a wrapper: .* save the network in it, {advice}, or say registered=False", caplog.text)


def test_the_wrapper_of_several_processes_is_refused(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1, timeout=timedelta(seconds=60)
    )
    try:
        for model in (tailcut.create_model("lenet300"), slim()):
            with pytest.raises(StructureError, match=r"DistributedDataParallel is a wrapper: .*, its \.module"):
                tailcut.save(nn.parallel.DistributedDataParallel(model), tmp_path / "a.tailcut")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("make", "kind"), [(slim, "prune"), (other_stem, "ycbcr")])
def test_an_edited_part_is_refused(make: Callable[[], nn.Module], kind: str, tmp_path: Path) -> None:
    whole = nn.Sequential(make(), nn.Linear(10, 3))
    message = f"^0 was changed by the edit '{kind}', but not by a call on this model: save the network"
    with pytest.raises(StructureError, match=message):
        tailcut.save(whole, tmp_path / "a.tailcut")
    with pytest.raises(StructureError, match=r"^module was changed by the edit"):
        tailcut.save(AveragedModel(whole[0]), tmp_path / "a.tailcut")
    assert not (tmp_path / "a.tailcut").exists()
    # A class that makes its part so itself: the user says that the file is for it.
    tailcut.save(whole, tmp_path / "a.tailcut", registered=False)
    again = tailcut.load(tmp_path / "a.tailcut", into=nn.Sequential(make(), nn.Linear(10, 3)))
    assert torch.equal(again.get_parameter("1.weight"), whole.get_parameter("1.weight"))


def test_a_part_that_is_no_longer_regularised_is_no_reason(tmp_path: Path) -> None:
    whole = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    tailcut.regularize(whole[0], num_kept=3)
    dense = tailcut.to_dense(whole)
    tailcut.save(dense, tmp_path / "a.tailcut")
    again = tailcut.load(tmp_path / "a.tailcut", into=nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    assert torch.equal(again(torch.eye(4)), dense(torch.eye(4)))


class EditsItsPart(nn.Module):
    def __init__(self, *, width: int = 3) -> None:
        super().__init__()
        self.backbone = other_stem()
        self.head = nn.Linear(10, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.backbone(x))
        return logits


def test_a_registered_class_may_edit_its_part(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match=r"can be saved once it is registered \(tailcut\.register_model\)"):
        tailcut.save(EditsItsPart(), tmp_path / "a.tailcut")
    with registered("edits-its-part", EditsItsPart):
        model = tailcut.create_model("edits-its-part", width=4).eval()
        tailcut.save(model, tmp_path / "a.tailcut")
        x = torch.rand(2, 3, 32, 32)
        assert torch.equal(tailcut.load(tmp_path / "a.tailcut")(x), model(x))


def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tailcut"
    tailcut.save(nn.Linear(2, 2), path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        tailcut.save(nn.Linear(3, 3), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tailcut"
    tailcut.save(nn.Linear(2, 2), path)
    before = path.read_bytes()
    with pytest.raises(ArgumentError):
        tailcut.save(nn.Linear(3, 3), path, dtype="float8")
    assert path.read_bytes() == before
    with pytest.raises(ArgumentError, match="folder"):
        tailcut.save(nn.Linear(3, 3), tmp_path / "nowhere" / "a.tailcut")


def test_numbers_that_do_not_fit_are_refused() -> None:
    model = regularized("lenet300", num_kept=5)
    vector = truncated_tensors(model)[1].vector
    vector.data[2] = 70_000
    with pytest.raises(ArgumentError, match=r"fc2\.weight: 7e\+04 does not fit into float16; use bfloat16 or float32"):
        encode_network(model, dtype="float16")
    assert encode_network(model, dtype="bfloat16")[0]
    assert encode_network(model, dtype="float32")[0]
    for value in (float("nan"), float("inf"), float("-inf")):
        vector.data[2] = value
        with pytest.raises(ArgumentError, match=r"fc2\.weight has coefficients that are not finite"):
            encode_network(model, dtype="float32")


def test_other_tensors_may_be_infinite_but_must_fit() -> None:
    model = nn.Linear(2, 2)
    model.bias.data[0] = float("inf")
    assert encode_network(model, dtype="float32", other_dtype="float16", allow_non_finite=True)[0]
    model.bias.data[1] = -1e6
    with pytest.raises(ArgumentError, match=r"bias: 1e\+06 does not fit into float16"):
        encode_network(model, dtype="float32", other_dtype="float16", allow_non_finite=True)


class Extra(nn.Linear):
    """Keeps a state of its own."""

    def __init__(self, state: object) -> None:
        super().__init__(2, 2)
        self.state = state

    def get_extra_state(self) -> object:
        return self.state

    def set_extra_state(self, state: object) -> None:
        self.state = state


def _sparse() -> nn.Module:
    model = nn.Module()
    model.register_buffer("kept", torch.eye(3).to_sparse())
    return model


def _holding(value: torch.Tensor) -> nn.Module:
    model = nn.Linear(2, 2)  # it has something to quantise
    model.register_buffer("kept", value)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Extra({"step": 3}), "_extra_state: .* neither a parameter nor a buffer"),
        (lambda: Extra(torch.ones(2)), "_extra_state: .* neither a parameter nor a buffer"),
        (_sparse, "kept: sparse tensors cannot be stored; make it dense first"),
        (lambda: _holding(torch.zeros(2, dtype=torch.complex64)), "kept: tensors of type torch.complex64"),
        (lambda: _holding(torch.zeros(2, device="meta")), "kept lies on the meta device"),
        (lambda: nn.LazyLinear(3), "weight is not initialised yet: run one forward first"),
        (lambda: _holding(torch.zeros((1,) * 17)), "at most 16 axes, got 17"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "quantized"])
def test_what_cannot_be_stored_is_named(make: Any, message: str, dtype: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        encode_network(make(), dtype=dtype)


@pytest.mark.filterwarnings("ignore")
def test_quantised_tensors_are_refused() -> None:
    model = nn.Module()
    model.register_buffer("kept", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))
    with pytest.raises(ArgumentError, match=r"kept: tensors of type torch\.qint8 cannot be stored"):
        encode_network(model, dtype="float32")


def test_meta_coefficients_are_refused() -> None:
    with torch.device("meta"):
        model = tailcut.create_model("lenet300")
        tailcut.regularize(model, num_kept=3)
    with pytest.raises(ArgumentError, match="meta device"):
        encode_network(model, dtype="float32")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"a": float("nan")}, "metadata must be what JSON can hold"),
        ({"a": {1, 2}}, "metadata must be what JSON can hold"),
        ({"a": "\ud800"}, "metadata must be what JSON can hold"),
        ({"a": "x" * 70_000}, "70008 bytes as JSON, at most 65536"),
        (["a"], "metadata must be a dict, got list"),
        ("text", "metadata must be a dict, got str"),
    ],
)
def test_metadata_that_json_cannot_hold_is_refused(metadata: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        encode_network(nn.Linear(2, 2), dtype="float32", metadata=metadata)


def test_deep_metadata_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(20_000):
        deep = {"a": deep}
    with pytest.raises(ArgumentError, match="metadata"):
        encode_network(nn.Linear(2, 2), dtype="float32", metadata=deep)


def test_metadata_comes_back(tmp_path: Path) -> None:
    metadata = {"accuracy": 0.9876, "labels": ["null", "eins", "zwei"], "größe": None, "nested": {"x": [1, [2, []]]}}
    tailcut.save(nn.Linear(2, 2), tmp_path / "a.tailcut", metadata=metadata)
    assert tailcut.inspect(tmp_path / "a.tailcut").metadata == metadata


def test_what_passes_a_cap_is_refused_when_written() -> None:
    with pytest.raises(ArgumentError, match=r"does not fit into a \.tailcut file: .* more than 16384"):
        encode_network(nn.ParameterList([nn.Parameter(torch.zeros(())) for _ in range(16_385)]), dtype="float32")
    with pytest.raises(ArgumentError, match=r"header has \d+ bytes, at most 1048576"):
        encode_network(nn.ParameterDict({f"{n:04}" + "x" * 4000: torch.zeros(()) for n in range(270)}), dtype="float32")
    with pytest.raises(ArgumentError, match="at most 4096 bytes, got 5000"):
        encode_network(nn.ParameterDict({"x" * 5000: torch.zeros(())}), dtype="float32")
    with pytest.raises(ArgumentError, match="without control characters"):
        encode_network(nn.ParameterDict({"a\nb": torch.zeros(())}), dtype="float32")


class ManyArguments(nn.Linear):
    def __init__(self, *, shape: tuple[int, ...] = (), label: str = "") -> None:
        super().__init__(2, 2)


def test_more_tensors_than_load_takes_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(limits, "MAX_TENSORS", 5)
    monkeypatch.setattr(sys.modules["tailcut.format.save"], "MAX_TENSORS", 5)
    model = nn.Sequential(nn.Linear(9, 9), nn.BatchNorm1d(9))
    tailcut.regularize(model, num_kept=4)
    with pytest.raises(ArgumentError, match=r"does not fit into a \.tailcut file: .* more than 5 tensors"):
        tailcut.save(model, tmp_path / "a.tailcut")
    assert not list(tmp_path.iterdir())


def test_a_network_above_the_cap_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with limits.command_line_limit(80):
        tailcut.save(nn.Linear(9, 8, bias=False), tmp_path / "a.tailcut")
        assert "load refuses this file" not in caplog.text
        tailcut.save(nn.Linear(9, 9, bias=False), tmp_path / "a.tailcut")
    assert "81 numbers or more, at most 80 are allowed" in caplog.text


def test_arguments_that_no_file_can_hold_are_refused() -> None:
    with registered("many-arguments", ManyArguments):
        assert encode_network(tailcut.create_model("many-arguments", shape=(1,) * 256), dtype="float32")[0]
        with pytest.raises(ArgumentError):
            encode_network(tailcut.create_model("many-arguments", shape=(1,) * 257), dtype="float32")
        with pytest.raises(ArgumentError):
            encode_network(tailcut.create_model("many-arguments", label="\x1b[2J"), dtype="float32")


def test_unknown_dtypes_are_refused_by_name() -> None:
    for arguments in ({"dtype": "float8"}, {"dtype": "float32", "other_dtype": "int8"}):
        with pytest.raises(
            ArgumentError, match="dtype must be one of float32, float16, bfloat16, float64, quantized, got"
        ):
            encode_network(nn.Linear(2, 2), **arguments)  # type: ignore[arg-type]


def test_other_codec_rounds_floating_point_tensors_only(tmp_path: Path) -> None:
    model = randomize(OwnNet(), 1)
    tailcut.save(model, tmp_path / "a.tailcut", other_dtype="bfloat16")
    dtype = {entry.name: entry.dtype for entry in tailcut.inspect(tmp_path / "a.tailcut").other_tensors}
    assert {dtype["conv.weight"], dtype["norm.running_mean"], dtype["constants.limits"]} == {"bfloat16"}
    assert dtype["constants.steps"] == dtype["norm.num_batches_tracked"] == "int64"
    assert dtype["constants.mask"] == "bool"


def test_streams_take_the_shortest_codec() -> None:
    content, tensors = encode_network(regularized("lenet300", num_kept=500), dtype="float16")
    stream = decode(content).coefficients
    assert stream is not None
    raw = b"".join(entry.values.half().numpy().tobytes() for entry in tensors.coefficients)
    assert stream.payload == codecs.best(raw, 2)[1]
    assert len(stream.payload) < len(raw)


def test_every_error_is_ours() -> None:
    with pytest.raises(TailcutError):
        tailcut.save(regularized("lenet300", num_kept=2), "/")


def test_a_file_of_zeros_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 3))
    with caplog.at_level("WARNING"):
        tailcut.save(model, tmp_path / "a.tailcut", step=0.01)
        assert not caplog.records
        tailcut.save(model, tmp_path / "a.tailcut", step=1e30)
    assert "all weights are rounded to zero" in caplog.text


class ReadsNumbersWhenMade(nn.Module):
    """Reads numbers of a tensor in its `__init__`, as stochastic depth does in many networks."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = [value.item() for value in torch.linspace(0, 0.1, 3)]
        self.fc = nn.Linear(3, 2)


def test_a_class_that_cannot_be_made_on_the_meta_device_is_refused_in_our_words(tmp_path: Path) -> None:
    with registered("reads-numbers", ReadsNumbersWhenMade):
        model = tailcut.create_model("reads-numbers")
        with pytest.raises(StructureError, match=r"'reads-numbers' cannot be made on the meta device.*device='cpu'"):
            tailcut.save(model, tmp_path / "a.tailcut")
        tailcut.save(model, tmp_path / "a.tailcut", registered=False)


@pytest.mark.parametrize("extra", [torch.zeros(2, dtype=torch.float8_e4m3fn), torch.zeros(0)])
def test_quantised_files_take_or_refuse_odd_tensors_in_our_words(extra: torch.Tensor, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(0))
    model[0].register_buffer("extra", extra)
    if extra.numel():
        with pytest.raises(ArgumentError, match="float8"):
            tailcut.save(model, tmp_path / "a.tailcut", dtype="quantized")
    else:
        tailcut.save(model, tmp_path / "a.tailcut", dtype="quantized")
        loaded = tailcut.load(tmp_path / "a.tailcut", into=copy.deepcopy(model))
        torch.testing.assert_close(loaded[0].weight, model[0].weight, rtol=0, atol=0.1)


@pytest.mark.parametrize("dtype", ["float16", torch.bfloat16])
def test_a_type_of_coefficients_of_a_network_that_has_none_is_told(
    dtype: str | torch.dtype, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tailcut.save(nn.Linear(4, 4), tmp_path / "a.tailcut", dtype=dtype)
    assert f"dtype={dtype} is the type of coefficients, and the network has none" in caplog.text
    caplog.clear()
    tailcut.save(regularized("lenet300", num_kept=9), tmp_path / "a.tailcut", dtype=dtype)
    tailcut.save(nn.Linear(4, 4), tmp_path / "a.tailcut", dtype=dtype, other_dtype=dtype)
    assert "the network has none" not in caplog.text
