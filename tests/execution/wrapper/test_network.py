import copy
import gc
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.execution.networks import MobileNetV2, ViT, fused_as, reasons_of, resnet18, strategies_of
from torch import Tensor, nn

import tailcut
from tailcut import execution
from tailcut.data import open_dataset
from tailcut.errors import ArgumentError
from tailcut.execution import FusedNetwork, fuse
from tailcut.execution.cpu import codegen, compiled, program_calls
from tailcut.execution.ir import cost
from tailcut.execution.lazy.lazy_map import LazyMap
from tailcut.execution.wrapper import network, programs
from tailcut.format.conversion.frereg import convert


def unet(**arguments: Any) -> nn.Module:
    return tailcut.create_model("unet", widths=(8, 16, 32), **arguments)


def small(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return lambda: tailcut.create_model(name, num_classes=10, **arguments)


FEW = {"fused", "factored"}
# name -> (how to make it, shape of an input, the ways its layers take when all are low-rank that can be)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], set[str]]] = {
    "alexnet": (small("alexnet", width=8, hidden=32), (2, 3, 95, 87), FEW),
    "vgg": (small("vgg16_bn_cifar", width=8, hidden=32), (2, 3, 32, 32), FEW),
    "resnet18": (resnet18, (2, 3, 32, 32), FEW),
    "resnet with a pooling stem": (small("resnet18", width=8), (2, 3, 64, 64), FEW),
    "mobilenet": (MobileNetV2, MobileNetV2.example, {*FEW, "dense"}),
    "googlenet": (small("googlenet_cifar", width=16), (2, 3, 32, 32), {*FEW, "dense"}),
    "vit": (
        small("vit", image_size=16, width=32, depth=2, num_heads=4, mlp_width=64),
        (2, 3, 16, 16),
        {"factored", "dense"},
    ),
    "vit of torch's layers": (ViT, ViT.example, {"factored", "dense"}),
    "unet": (unet, (2, 3, 21, 19), {*FEW, "dense"}),
    "bilinear unet": (lambda: unet(bilinear=True), (2, 3, 21, 19), {*FEW, "dense"}),
    "unet of batch statistics": (
        lambda: unet(bias=False, affine=False, running_stats=False),
        (1, 3, 9, 9),
        {*FEW, "dense"},
    ),
}


def made(name: str, num_kept: int) -> tuple[nn.Module, Tensor]:
    model = NETWORKS[name][0]().double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        elif isinstance(module, nn.BatchNorm2d) and module.affine and module.track_running_stats:
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            module.reset_running_stats()
    tailcut.regularize(model, num_kept=num_kept)
    return model, torch.randn(NETWORKS[name][1], dtype=torch.float64)


def error(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6)).detach())


def check_step(dense: nn.Module, fused: FusedNetwork, x: Tensor) -> None:
    """The same outputs, and the same gradients of each parameter."""
    expected, found = dense(x), fused(x)
    assert error(found, expected) < 1e-10
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    for mine, theirs in zip(fused.source.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("num_kept", [1, 30])
@pytest.mark.parametrize("name", NETWORKS)
def test_evaluation(name: str, num_kept: int) -> None:
    model, x = made(name, num_kept)
    with torch.no_grad():
        model.train()(x)  # running statistics other than 0 and 1
    fused = fused_as(model.eval(), "low_rank")
    with torch.no_grad():
        assert error(fused(x), model(x)) < 1e-10
    report = fused.report()
    strategies = {layer.strategy for layer in report.layers}
    assert strategies <= NETWORKS[name][2]
    assert ("fused" in strategies) == ("fused" in NETWORKS[name][2])
    assert all(layer.reason for layer in report.layers)
    assert report.not_run == ()


@pytest.mark.parametrize("name", NETWORKS)
def test_training(name: str) -> None:
    model, x = made(name, 30)
    dense, fused = copy.deepcopy(model).train(), fused_as(model.train(), "low_rank")
    check_step(dense, fused, x)
    for one, two in zip(model.buffers(), dense.buffers(), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["mobilenet", "unet"])  # each form is compiled, which takes seconds
def test_compiled_loops_do_the_same(name: str, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    calls = []
    in_threads = compiled.in_threads

    def counted(*arguments: Any) -> None:
        calls.append(arguments)
        in_threads(*arguments)

    monkeypatch.setattr(program_calls, "in_threads", counted)
    monkeypatch.setattr(codegen, "MIN_FLOPS", 0)
    monkeypatch.setattr(compiled, "MIN_ELEMENTS", 0)
    model, x = made(name, 30)
    dense, fused = copy.deepcopy(model).train(training), fused_as(model.train(training), "low_rank")
    fused.engine = "compiled"
    check_step(dense, fused, x)
    assert calls


@pytest.mark.parametrize("keep_ratio", [0.001, 0.3, 1.0])
def test_the_cost_model_keeps_the_answer(keep_ratio: float) -> None:
    model = resnet18()
    tailcut.regularize(model, keep_ratio=keep_ratio)
    x, fused = torch.randn(2, 3, 32, 32), fuse(model.eval())
    with torch.no_grad():
        assert error(fused(x), model.double()(x.double()).float()) < 1e-4
        model.float()
        for _ in range(2):
            torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-4)
    if keep_ratio == 1:
        assert set(strategies_of(fused).values()) == {"dense"}


def test_nothing_about_the_model_changes() -> None:
    model = resnet18()
    tailcut.regularize(model, num_kept=20)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modules = [(name, type(module), module.training) for name, module in model.named_modules()]
    fused = fuse(model, torch.randn(2, 3, 32, 32))
    assert fused.source is model
    assert [(name, type(module), module.training) for name, module in model.named_modules()] == modules
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert set(map(id, fused.parameters())) == set(map(id, model.parameters()))


def test_copies_are_independent() -> None:
    model = unet().eval()
    tailcut.regularize(model, num_kept=20)
    fused, x = fused_as(model, "low_rank"), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        before = fused(x)
        copied = copy.deepcopy(fused)
        for parameter in copied.parameters():
            parameter.zero_()
        torch.testing.assert_close(fused(x), before)
        assert error(copied(x), before) > 0.1


def test_what_python_does_in_a_forward_is_done() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 12, 3)
            self.second = nn.Conv2d(12, 12, 1)

        def forward(self, x: Tensor, *, times: int) -> dict[str, Tensor]:
            x = self.first(x)
            if x.shape[2] > 4 and x.mean() < 1e9:
                for _ in range(times):
                    x = torch.relu(self.second(x))
            return {"out": x, "half": x[:, ::2]}

    model = Branching()
    tailcut.regularize(model, num_kept=8)
    fused, x = fused_as(model, "low_rank"), torch.randn(1, 3, 9, 9)
    found, expected = fused(x, times=3), model(x, times=3)
    for key, value in expected.items():
        assert type(found[key]) is Tensor
        torch.testing.assert_close(found[key], value)


def test_networks_made_without_numbers_give_shapes() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512))
        tailcut.regularize(model, num_kept=20)
    fused = fuse(model)
    for strategy in ("auto", "low_rank"):
        fused.strategy = strategy
        assert fused(torch.empty(64, 512, device="meta")).shape == (64, 512)
        assert set(strategies_of(fused).values()) == {"dense"}
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    x = torch.randn(64, 512)
    torch.testing.assert_close(fused(x), model(x), rtol=1e-3, atol=1e-3)
    assert set(strategies_of(fused).values()) == {"factored"}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("gradients", [True, False])
def test_a_trace_is_that_of_the_source(gradients: bool) -> None:
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    tailcut.regularize(model, num_kept=20)
    x = torch.randn(3, 16)
    with torch.set_grad_enabled(gradients):
        traced: Any = torch.jit.trace(fuse(model, x), (x,))
        torch.testing.assert_close(traced(x[:2]), model(x[:2]))


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")  # torch's own, about its tables of types for export
def test_an_exported_program_is_that_of_the_source() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)).eval()
    tailcut.regularize(model, num_kept=20)
    x = torch.randn(1, 3, 96, 96)
    fused = fuse(model, x)
    assert "fused" in strategies_of(fused).values()
    program, wanted = (torch.export.export(network, (x,)) for network in (fused, model))
    operations = [[node.target for node in one.graph.nodes if node.op == "call_function"] for one in (program, wanted)]
    assert operations[0] == operations[1]
    torch.testing.assert_close(program.module()(x), model(x))


def test_reports_need_a_forward() -> None:
    fused = fuse(nn.Linear(3, 3))
    with pytest.raises(ArgumentError, match="example_input"):
        fused.report()
    with pytest.raises(ArgumentError, match="tensor or a tuple"):
        fuse(nn.Linear(3, 3), "image")
    with pytest.raises(ArgumentError, match=r"got a shape: give torch.rand\(\(1, 3\)\)"):
        fuse(nn.Linear(3, 3), (1, 3))
    with pytest.raises(ArgumentError, match="engine must be"):
        fuse(nn.Linear(3, 3), engine="fast")
    with pytest.raises(ArgumentError, match="needs an example_input"):
        fuse(nn.Linear(3, 3), check_by_timing=True)


def test_images_of_other_channels_are_refused_in_the_words_of_the_network_itself() -> None:
    model = tailcut.create_model("resnet18", num_classes=10, small_input=True).eval()
    tailcut.regularize(model, num_kept=64)
    images = torch.randn(64, 1, 32, 32)
    with pytest.raises(RuntimeError) as plain:
        model(images)
    with torch.no_grad(), pytest.raises(RuntimeError) as fused:
        fuse(model)(images)
    assert str(fused.value) == str(plain.value)


def test_timing_prefers_the_faster_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "NETWORK_MARGIN", 1.0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3))
    tailcut.regularize(model, num_kept=4)
    clock = itertools.accumulate(itertools.chain([0.0], itertools.cycle([9.0, 0.0, 1.0, 0.0])))  # fused 9 s, dense 1 s
    monkeypatch.setattr("tailcut.execution.wrapper.network.time.perf_counter", lambda: next(clock))
    x = torch.randn(1, 3, 64, 64)
    fused = fuse(model, x, check_by_timing=True)
    assert set(reasons_of(fused).values()) == {"timed: dense weights were faster"}
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-4)


def test_what_is_too_large_to_be_timed_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cost, "NETWORK_MARGIN", 1.0)
    monkeypatch.setattr(network, "TIMING_CAP_BYTES", 1000)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3))
    tailcut.regularize(model, num_kept=4)
    with caplog.at_level("WARNING", logger="tailcut"):
        fuse(model, torch.randn(1, 3, 64, 64), check_by_timing=True)
    assert "not timed" in caplog.text


def densely(model: nn.Module, x: Tensor) -> FusedNetwork:
    """A fused network that has run an input densely, twice."""
    fused = fuse(model)
    with torch.no_grad():
        fused.prefer_dense(x)
        for _ in range(2):
            torch.testing.assert_close(fused(x), model(x))
    return fused


def test_an_interrupt_while_dense_weights_are_made_leaves_no_stale_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)), torch.randn(4, 64)
    tailcut.regularize(model, num_kept=9)
    fused = densely(model, x)

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
        with monkeypatch.context() as patch:
            patch.setattr(programs.NetworkPrograms, "make_dense", interrupted)
            with pytest.raises(KeyboardInterrupt):
                fused(x)
        torch.testing.assert_close(fused(x), model(x))


def test_threads_wait_for_the_one_that_makes_dense_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)), torch.randn(4, 64)
    tailcut.regularize(model, num_kept=9)
    fused = densely(model, x)
    make_dense = programs.NetworkPrograms.make_dense

    def slowly(*args: Any) -> None:
        time.sleep(0.2)
        make_dense(*args)

    monkeypatch.setattr(programs.NetworkPrograms, "make_dense", slowly)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
        expected = model(x)

    def call(_: int) -> Tensor:
        with torch.inference_mode():
            found: Tensor = fused(x)
        return found

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(call, range(4)):
            torch.testing.assert_close(found, expected)


def test_a_strategy_that_was_set_counts_after_dense_calls() -> None:
    model, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)), torch.randn(4, 64)
    tailcut.regularize(model, num_kept=9)
    fused = densely(model, x)
    fused.strategy = "low_rank"
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x))
    assert "dense" not in strategies_of(fused).values()


@pytest.mark.parametrize("engine", ["torch", "compiled"])
def test_published_images(carvana_root: Path, engine: str) -> None:
    if engine == "compiled":
        pytest.importorskip("numba")
    model = convert(carvana_root / "carvana" / "published" / "unet_fr.tar.xz", model="unet")
    fused = fuse(model, engine=engine)
    images = open_dataset("carvana", "published", roots=str(carvana_root))
    image = images[0][0][None, :, ::3, ::3].contiguous()
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(image.double())
        found = fused(image)
    assert error(found.double(), exact) < 1e-4
    margin = (exact[:, 0] - exact[:, 1]).abs() > 2e-4 * exact.abs().max()
    assert torch.equal(found.argmax(1)[margin], exact.argmax(1)[margin])


@pytest.mark.slow
def test_memory_follows_the_low_rank_maps() -> None:
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        pytest.skip("needs Linux to tell the peak of memory")

    def kilobytes(key: str) -> int:
        return int(status.read_text(encoding="ascii").split(f"{key}:")[1].split()[0])

    model = tailcut.create_model("unet", bias=False, affine=False, running_stats=False).eval()
    tailcut.regularize(model, num_kept=33)
    fused, x = fuse(model, engine="torch"), torch.rand(1, 3, 800, 1000)
    with torch.no_grad():
        fused(x)
        try:
            reset.write_text("5", encoding="ascii")
        except OSError:
            pytest.skip("needs Linux to reset the peak of memory")
        before = kilobytes("VmRSS")
        fused(x)
    # 4 GiB for 6,000 x 4,000 pixels are 178 bytes a pixel, the image (12) and the program itself included.
    assert 1024 * (kilobytes("VmHWM") - before) < 155 * 800 * 1000


def test_saving_a_fused_network_saves_its_source(tmp_path: Path) -> None:
    model = tailcut.create_model("lenet5", bias=False)
    tailcut.regularize(model, num_kept=60)
    tailcut.save(model, tmp_path / "source.tailcut")
    tailcut.save(fuse(model), tmp_path / "fused.tailcut")
    assert (tmp_path / "fused.tailcut").read_bytes() == (tmp_path / "source.tailcut").read_bytes()


def test_what_a_step_held_is_free_without_garbage_collection() -> None:
    """A reference cycle would keep the maps of each step until Python looks for cycles."""
    model, x = made("vgg", 20)
    fused = fused_as(model, "low_rank")

    def step() -> None:
        fused.zero_grad(set_to_none=True)
        fused(x).sum().backward()

    step()
    gc.collect()
    gc.disable()
    try:
        before = num_tensors()
        step()
        step()
        assert num_tensors() == before
    finally:
        gc.enable()


def num_tensors() -> int:
    return sum(1 for item in gc.get_objects() if type(item) in (torch.Tensor, LazyMap))


def test_the_own_example_of_a_network_in_training_has_two_images() -> None:
    """Batch norm refuses one number per channel, which the last map of one small image is."""
    model = tailcut.create_model("resnet18", width=4, num_classes=10)
    tailcut.inputs.replace_stem(model, channels=6, image_size=32)
    tailcut.regularize(model, num_kept=8)
    assert fuse(model.train()).report().input_shapes[0][0] == 2
    assert fuse(model.eval()).report().input_shapes[0][0] == 1


def test_a_traced_network_runs_fused() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 2, 1)
    model = torch.fx.symbolic_trace(nn.Sequential(*layers)).eval()
    tailcut.regularize(model, num_kept=20)
    image = torch.rand(1, 3, 64, 64)
    fused = fuse(model, image)
    torch.testing.assert_close(fused(image), model(image), rtol=1e-4, atol=1e-5)
    assert {layer.strategy for layer in fused.report().layers} != {"dense"}


@pytest.mark.parametrize("has_units", [False, True])
def test_matrix_units_make_dense_weights_the_faster_ones(has_units: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tailcut.create_model("unet", widths=(16, 32, 64), bias=False).eval()
    tailcut.regularize(model, num_kept=33)
    monkeypatch.setitem(cost.DEVICES, "cuda", cost.DEVICES["cpu"])  # this image is too small to gain on a real one
    monkeypatch.setattr(network, "device_type", lambda tensors: "cuda")
    monkeypatch.setattr(network, "runs_on_tensor_cores", lambda tensors: has_units)
    fused = FusedNetwork(model, engine="torch")
    with torch.no_grad():
        fused(torch.rand(1, 3, 320, 480))
    assert (set(strategies_of(fused).values()) == {"dense"}) == has_units


class SwitchesByHand(nn.Module):
    """Switches gradients for a part of its forward without a context: off for a frozen layer, or on for its own."""

    def __init__(self, *, on: bool) -> None:
        super().__init__()
        self.first, self.second, self.on = nn.Conv2d(8, 48, 3, padding=1), nn.Conv2d(48, 48, 3, padding=1), on

    def forward(self, x: Tensor) -> Tensor:
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(self.on)
        x = x.detach().requires_grad_(self.on)
        y: Tensor = self.first(x)
        if self.on:
            (y,) = torch.autograd.grad(self.second(y).square().sum(), x)
        torch.set_grad_enabled(before)
        return y if self.on else self.second(y)


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_gradients_that_a_forward_switches_by_hand(on: bool, gradients: bool) -> None:
    """The program stops in the middle of such a forward; what it switched must not stay so, for all that follows."""
    torch.manual_seed(0)
    model = SwitchesByHand(on=on)
    tailcut.regularize(model, num_kept=20, warn=False)
    x = torch.randn(2, 8, 12, 10)
    fused = fuse(model, engine="torch")
    with torch.set_grad_enabled(gradients):
        expected = model(x)
        for _ in range(2):
            found = fused(x)
            assert torch.is_grad_enabled() is gradients
            assert found.requires_grad is expected.requires_grad is (gradients and not on)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


class Masked(nn.Module):
    """Takes its inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 64, 1), nn.Conv2d(64, 8, 1)

    def forward(self, *, image: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(image).relu()) * mask
        return y


@pytest.mark.parametrize("check_by_timing", [False, True])
def test_an_example_by_name(check_by_timing: bool) -> None:
    torch.manual_seed(0)
    model = Masked()
    tailcut.regularize(model, num_kept=20, warn=False)
    example = {"image": torch.randn(2, 8, 9, 9), "mask": torch.ones(2, 1, 9, 9)}
    fused = fuse(model, example, check_by_timing=check_by_timing)
    assert [layer.name for layer in fused.report().layers] == ["first", "second"]
    torch.testing.assert_close(fused(**example), model(**example), rtol=1e-4, atol=1e-5)


LAZY = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.LazyLinear(4))


def test_layers_that_wait_for_a_first_forward_are_left_to_it() -> None:
    model, x = copy.deepcopy(LAZY), torch.randn(2, 8)
    for change in (fuse, lambda network: fuse(network, x), lambda network: execution.pays_in_training(network, x)):
        with pytest.raises(ArgumentError, match=r"2\.weight is not initialised yet: run one forward first"):
            change(model)
    assert model(x).shape == (2, 4)
    assert fuse(model, x)(x).shape == (2, 4)


def test_the_mode_is_that_of_the_network() -> None:
    model = unet().train()
    fused, x = fuse(model), torch.randn(1, 3, 9, 9)
    model.eval()
    before, was = copy.deepcopy(model.state_dict()), fused.training
    fused.eval()(x)
    fused.train(was)(x)
    assert (was, fused.training, model.training) == (False, False, False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert fused.train().training
    assert model.training


def test_a_copy_has_the_hooks_and_attributes_of_the_wrapper() -> None:
    model = small("lenet5")()
    x = torch.randn(2, 1, 28, 28)
    fused = fuse(model.eval(), x)
    expected = fused(x)
    fused.register_forward_hook(lambda module, given, output: 2 * output)
    note = [3]
    fused.__dict__["note"], fused.head = note, nn.Linear(10, 2)
    copied = copy.deepcopy(fused)
    torch.testing.assert_close(copied(x), 2 * expected)
    assert copied.note == note
    assert copied.note is not note
    assert copied.head.weight is not fused.head.weight
    assert copied.source is not model
    assert copied.report().layers == fused.report().layers


def test_whether_training_pays_is_told_of_a_fused_network_too() -> None:
    model = nn.Sequential(*(nn.Conv2d(64, 64, 3, padding=1) for _ in range(3)))
    tailcut.regularize(model, keep_ratio=0.0005)
    x = torch.randn(2, 64, 48, 48)
    for example in (x, (x,), {"input": x}):
        assert execution.pays_in_training(model, example)
        assert execution.pays_in_training(fuse(model), example)
    with pytest.raises(ArgumentError, match="needs an example_input"):
        execution.pays_in_training(model, None)
