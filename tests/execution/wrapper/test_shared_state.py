"""What a fused forward shares with others: statistics, views in one memory, kept maps, threads."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import tailcut
from tailcut.errors import StructureError
from tailcut.execution.lazy.lazy_map import LazyMap


class Head(nn.Module):
    """One head over two levels of a pyramid: the fine one runs fused, the coarse one densely."""

    def __init__(self, reads_statistics: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.conv, self.norm = nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64)
        self.out = nn.Conv2d(64, 4, 1)
        self.reads_statistics = reads_statistics
        self.scales: list[float] = []

    def forward(self, x: Tensor) -> list[Tensor]:
        """Scores of each level."""
        fine = self.stem(x)
        found = []
        for level in (fine, nn.functional.avg_pool2d(fine, 8)):
            y = torch.relu(self.norm(self.conv(level)))
            if self.reads_statistics:
                running: Any = self.norm.running_var
                y = y * running.view(1, -1, 1, 1)
            found.append(self.out(y))
        return found


@pytest.mark.parametrize("reads_statistics", [False, True])
def test_statistics_are_updated_in_the_order_of_the_calls(reads_statistics: bool) -> None:
    torch.manual_seed(0)
    model, images = Head(reads_statistics), torch.rand(2, 3, 96, 96)
    tailcut.regularize(model, num_kept=8, warn=False)
    twin = copy.deepcopy(model)
    fused = tailcut.fuse(model)
    for _ in range(3):
        for one, other in zip(fused(images), twin(images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    if reads_statistics:  # gradients are those of numbers that torch's batch norm changes in place, uncounted
        return
    sum(level.square().mean() for level in fused(images)).backward()
    sum(level.square().mean() for level in twin(images)).backward()
    for parameter, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, wanted.grad, rtol=1e-3, atol=1e-5)


class Writer(nn.Module):
    """Writes to a map in part, or to what may be a copy of it, while it is in use elsewhere."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 1), nn.Linear(64, 5)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        y = self.stem(x)
        tokens = y.flatten(2).transpose(1, 2)
        if self.way == "row":
            tokens[:, 0].mul_(100.0)
        elif self.way == "chunk":
            y.chunk(2, 1)[0].zero_()
        elif self.way == "axis":
            tokens.unsqueeze(0).add_(1.0)
        else:
            y = y.contiguous().relu_() + y
        scores: Tensor = self.head(self.mix(y).mean((2, 3)) + tokens.mean(1))
        return scores


@pytest.mark.parametrize("strategy", ["auto", "low_rank"])
@pytest.mark.parametrize("way", ["row", "chunk", "axis", "contiguous"])
def test_writes_reach_all_who_share_the_memory(way: str, strategy: str) -> None:
    torch.manual_seed(0)
    model, images = Writer(way).eval(), torch.randn(2, 3, 48, 48)
    tailcut.regularize(model, num_kept=33, warn=False)
    fused = tailcut.fuse(model)
    fused.strategy = strategy
    for given in (images, images.to(memory_format=torch.channels_last)):
        with torch.no_grad():
            torch.testing.assert_close(fused(given), model(given), rtol=1e-4, atol=1e-5)


@dataclass
class Outputs:
    """Scores and the map that they are made of."""

    scores: Tensor
    features: Tensor


class Keeper(nn.Module):
    """Gives a map in an object, or keeps it in a list or dict."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 1), nn.Linear(64, 5)
        self.way = way
        self.kept: dict[str, list[Tensor]] = {"maps": []}

    def forward(self, x: Tensor) -> Any:
        """Scores, in `Outputs` or alone."""
        y = self.mix(torch.relu(self.stem(x)))
        scores = self.head(y.mean((2, 3)))
        if self.way == "object":
            return Outputs(scores, y)
        self.kept["maps"] = [y]
        return scores


@pytest.mark.parametrize("way", ["object", "list"])
def test_maps_that_leave_the_forward_are_ordinary_tensors(way: str) -> None:
    torch.manual_seed(0)
    model, images = Keeper(way).eval(), torch.randn(2, 3, 96, 96)
    tailcut.regularize(model, num_kept=33, warn=False)
    fused = tailcut.fuse(model)
    for _ in range(2):
        with torch.no_grad():
            found = fused(images)
        kept = found.features if way == "object" else model.kept["maps"][0]
        assert not isinstance(kept, LazyMap)
        before = kept.clone()
        with torch.no_grad():
            cast(Tensor, model.mix.bias).add_(1.0)
        assert torch.equal(kept, before)


def test_threads_with_gradients_have_graphs_of_their_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(16, 16), nn.ReLU())))
    tailcut.regularize(model, num_kept=9, warn=False)
    fused, inputs = tailcut.fuse(model), torch.randn(4, 16)
    parameters = list(model.parameters())
    wanted = torch.autograd.grad(model(inputs).sum(), parameters)
    errors: list[BaseException] = []

    def work(acts: bool) -> None:
        try:
            for _ in range(60):
                if acts:
                    with torch.no_grad():
                        fused(inputs)
                    continue
                for found, right in zip(torch.autograd.grad(fused(inputs).sum(), parameters), wanted, strict=True):
                    torch.testing.assert_close(found, right)
        except BaseException as error:  # noqa: BLE001  # of a thread; it is raised below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(acts,)) for acts in (False, False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]


class Capturing(nn.Module):
    """Registers hooks in its first forward that collect maps, once, as the networks of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 1), nn.Linear(64, 5)
        self.maps: list[Tensor] = []
        self.has_hooks = False

    def forward(self, x: Tensor, capture: bool = False) -> Any:
        """Scores, and how many maps were collected."""
        if capture and not self.has_hooks:
            for part in (self.stem, self.mix):
                part.register_forward_hook(lambda module, args, output: self.maps.append(output.mean()))
            self.has_hooks = True
        self.maps.clear()
        scores = self.head(self.mix(torch.relu(self.stem(x))).mean((2, 3)))
        return scores, len(self.maps)


@pytest.mark.parametrize("warm", [False, True])
def test_hooks_that_the_forward_registers_are_registered_once(warm: bool) -> None:
    torch.manual_seed(0)
    model, images = Capturing().eval(), torch.randn(2, 3, 96, 96)
    tailcut.regularize(model, num_kept=33, warn=False)
    fused = tailcut.fuse(model)
    with torch.no_grad():
        if warm:
            assert fused(images)[1] == 0
        for _ in range(2):
            scores, count = fused(images, capture=True)
            assert count == 2
            torch.testing.assert_close(scores, model(images)[0], rtol=1e-4, atol=1e-5)
        assert model(images, capture=True)[1] == 2


class Compiled(nn.Module):
    """Calls a function that torch's compiler traces."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3), nn.Linear(64, 5)
        self.activation = torch.compile(lambda x: torch.sigmoid(x) * x, backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        scores: Tensor = self.head(torch.relu(self.mix(self.activation(self.stem(x)))).mean((2, 3)))
        return scores


# Of torch's compiler itself, which looks at the gradients of what it is given, and does not know all functions.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf", "ignore:Dynamo does not know")
def test_functions_of_the_compiler_run_densely_in_training() -> None:
    torch.manual_seed(0)
    model, images = Compiled(), torch.randn(2, 3, 96, 96)
    tailcut.regularize(model, num_kept=8, warn=False)
    fused = tailcut.fuse(model)
    for _ in range(2):
        torch.testing.assert_close(fused(images), model(images), rtol=1e-4, atol=1e-5)
    assert {layer.strategy for layer in fused.report().layers} == {"dense"}


def test_other_errors_stay_what_they_are() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    tailcut.regularize(model, num_kept=8, warn=False)
    fused = tailcut.fuse(model)
    with pytest.raises(RuntimeError, match="to have 3 channels") as caught:
        fused(torch.rand(1, 4, 9, 9))
    assert not isinstance(caught.value, StructureError)


@pytest.mark.parametrize("strategy", ["auto", "low_rank"])
def test_second_derivatives_are_refused(strategy: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 256, 3, padding=1), nn.BatchNorm2d(256), nn.SiLU(), nn.Conv2d(256, 1, 1))
    tailcut.regularize(model, keep_ratio=0.005, warn=False)
    fused = tailcut.fuse(model)
    fused.strategy = strategy
    images = torch.randn(4, 3, 64, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(fused(images).mean(), images, create_graph=True)
    (wanted,) = torch.autograd.grad(model(images).mean(), images)
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-7)
    with pytest.raises(RuntimeError, match="fused layers have no second derivatives; use the model itself"):
        gradient.square().sum().backward()


class Passing(nn.Module):
    """Registers a hook for one call of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        """The second layer of twice what the first one gives."""
        with self.first.register_forward_hook(lambda module, args, output: output * 2):
            y: Tensor = self.second(self.first(x))
        return y


class Pooled(nn.Module):
    """Runs its layers in threads of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        """Their sum."""
        with ThreadPoolExecutor(2) as pool:
            one, two = pool.map(lambda layer: layer(x), (self.first, self.second))
        total: Tensor = one + two
        return total


@pytest.mark.parametrize("kind", [Passing, Pooled])
def test_hooks_of_one_call_and_layers_in_threads_run_in_every_call(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, inputs = kind().eval(), torch.randn(4, 64)
    tailcut.regularize(model, keep_ratio=0.1, warn=False)
    fused = tailcut.fuse(model)
    for _ in range(3):
        with torch.no_grad():
            torch.testing.assert_close(fused(inputs), model(inputs))


def test_attributes_that_are_equal_are_no_change() -> None:
    model, images = Head().eval(), torch.rand(1, 3, 32, 32)
    model.scales = [1.0, 2.0]
    tailcut.regularize(model, num_kept=8, warn=False)
    fused = tailcut.fuse(model, images)
    model.scales = [1.0, 2.0]
    fused(images)
    model.train()
    fused(images)
    model.scales = [1.0, 3.0]
    model.eval()
    with pytest.raises(StructureError, match=r"scales of the network was set"):
        fused(images)
