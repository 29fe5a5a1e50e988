"""`score` against maps taken by hand; the network stays as it was; bad input says what is wrong."""

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tests.channels.scoring.score_two_processes import batches, network, score_together
from tests.channels.transcription import paper, published
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from torch.utils.data import DataLoader, TensorDataset

from tailcut.channels import Formula, Scores, map_parts, score
from tailcut.channels.scoring.score import METHODS
from tailcut.errors import ArgumentError, StructureError
from tailcut.execution import fuse
from tailcut.structure import create_model, family
from tailcut.weights import regularize, to_dense


class Residual(nn.Module):
    """As in ResNets: activations by functions, a shortcut, a linear layer at the end."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv3, self.bn3 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 10)
        self.dropout = nn.Dropout(0.5)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """The maps by their layer."""
        first = functional.relu(self.bn1(self.conv1(x)))
        second = functional.relu(self.bn2(self.conv2(first)))
        third = functional.relu(self.bn3(self.conv3(second)) + first)
        return {"conv1": first, "conv2": second, "conv3": third}

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.fc(self.dropout(self.maps(x)["conv3"]).mean((2, 3)))
        return logits


def images(*sizes: int) -> list[Tensor]:
    noise = torch.Generator().manual_seed(0)
    return [torch.rand(size, 3, 12, 12, generator=noise, dtype=torch.float64) for size in sizes]


def test_scores_are_means_over_images_of_the_formula() -> None:
    model = Residual().double()
    loader = images(3, 5, 2)
    with torch.no_grad():
        maps = copy.deepcopy(model).eval().maps(torch.cat(loader))
    found = score(model, loader)
    assert list(found) == ["conv1", "conv2", "conv3"]
    assert (found.method, found.num_images, found.skipped) == ("spectral", 10, {})
    for name, own in maps.items():
        parts = torch.tensor([[paper(one.numpy()) for one in image] for image in own], dtype=torch.float64)
        spectral, dist, spatial = parts.unbind(dim=2)
        expected = (dist * spectral + 0.03 * spatial).mean(dim=0)
        torch.testing.assert_close(found[name], expected, rtol=1e-11, atol=0)
        means = [spectral.mean(dim=0), dist.mean(dim=0), (dist * spectral).mean(dim=0), spatial.mean(dim=0)]
        for part, mean in zip(found.parts[name], means, strict=True):
            torch.testing.assert_close(part, mean, rtol=1e-11, atol=0)


def test_the_published_variant_and_its_settings() -> None:
    model = Residual().double()
    (batch,) = loader = images(2)
    with torch.no_grad():
        maps = copy.deepcopy(model).eval().maps(batch)["conv2"]
    parts = torch.tensor([[published(one.numpy()) for one in image] for image in maps], dtype=torch.float64)
    expected = (parts[..., 0] * parts[..., 1] + 0.03 * parts[..., 2]).mean(dim=0)
    torch.testing.assert_close(score(model, loader, variant="published")["conv2"], expected, rtol=1e-11, atol=0)
    switched = score(
        model, loader, block_size=8, gaussian_sigma=None, spatial_weight=0.5, components=("dist", "spatial")
    )
    parts = torch.tensor([[paper(one.numpy(), 8, None) for one in image] for image in maps], dtype=torch.float64)
    expected = (parts[..., 1] + 0.5 * parts[..., 2]).mean(dim=0)
    torch.testing.assert_close(switched["conv2"], expected, rtol=1e-11, atol=0)
    assert switched.settings == {
        "variant": "paper",
        "block_size": 8,
        "gaussian_sigma": None,
        "spatial_weight": 0.5,
        "components": ["dist", "spatial"],
    }


def test_batches_are_counted_and_their_sizes_do_not_matter() -> None:
    model = Residual().double()
    loader = images(4, 4, 4, 4, 4, 4, 4)
    five = score(model, loader)
    assert five.num_images == 20
    assert score(model, loader, num_batches=None).num_images == 28
    assert score(model, loader, num_batches=9).num_images == 28
    other = score(model, torch.cat(loader[:5]).split(7), num_batches=None)
    for name, values in five.items():
        torch.testing.assert_close(other[name], values, rtol=1e-12, atol=0)


def test_the_same_batches_give_the_same_scores() -> None:
    model = Residual()
    loader = [batch.float() for batch in images(4, 4)]
    first, second = score(model, loader), score(model, loader)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_data_loader_with_targets() -> None:
    model = Residual()
    x = torch.rand(20, 3, 12, 12)
    loader = DataLoader(TensorDataset(x, torch.arange(20)), batch_size=8)
    found = score(model, loader, num_batches=2)
    assert found.num_images == 16
    expected = score(model, [x[:8], x[8:16]])
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_the_model_stays_as_it_was() -> None:
    model = Residual().train()
    model.bn2.eval()
    calls: list[str] = []
    model.conv1.register_forward_hook(lambda *_: calls.append("own"))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    random = torch.get_rng_state()
    loader = [batch.float() for batch in images(2, 2)]
    for method in METHODS:
        score(model, loader, method=method)  # type: ignore[arg-type]
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert calls == ["own"] * (2 * 3 + 1 + 4)  # methods of weights: one batch shows which linear layers give tokens
    model(loader[0]).sum().backward()  # nothing was left that cannot be trained


def test_the_model_stays_as_it_was_after_an_error() -> None:
    model = Residual().train()
    for method in ("spectral", "apoz", "bn_scale"):
        with pytest.raises(
            ArgumentError, match=r"Residual does not run on an input of shape \(2, 5, 8, 8\): Given groups"
        ):
            score(model, [torch.rand(2, 5, 8, 8)], method=method)
    assert all(module.training for module in model.modules())
    assert len(model.conv1._forward_hooks) == 0


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    alive: list[int] = []

    class Watched(Residual):
        def forward(self, x: Tensor) -> Tensor:
            alive.append(sum(batch() is not None for batch in made))
            return super().forward(x)

    import weakref

    made: list[Any] = []

    def loader() -> Iterator[Tensor]:
        for _ in range(12):
            batch = torch.rand(2, 3, 8, 8)
            made.append(weakref.ref(batch))
            yield batch

    assert score(Watched(), loader(), num_batches=None).num_images == 24
    assert max(alive) <= 2


def test_networks_of_several_inputs() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(1, 4, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.cat([torch.relu(self.one(x)), torch.relu(self.other(y))], 1)

    model = Beside().double()
    batches = [{"x": x, "y": x[:, :1] * 2, "target": 1} for x in images(4, 3)]
    found = score(model, batches, inputs=lambda batch: (batch["x"], batch["y"]))
    assert found.num_images == 7
    one = score(nn.Sequential(model.one, nn.ReLU()), images(4, 3))
    other = score(nn.Sequential(model.other, nn.ReLU()), [x[:, :1] * 2 for x in images(4, 3)])
    torch.testing.assert_close(found["one"], one["0"])
    torch.testing.assert_close(found["other"], other["0"])


def test_layers_by_name() -> None:
    model = Residual().double()
    loader = images(3)
    found = score(model, loader, layers=["conv3", "fc"])
    assert list(found) == ["conv3", "fc"]
    assert torch.equal(found["conv3"], score(model, loader)["conv3"])
    with torch.no_grad():
        logits = copy.deepcopy(model).eval()(loader[0])
    # A map of one pixel: its one coefficient is at least the mean.
    torch.testing.assert_close(found["fc"], 1.03 * logits.abs().mean(dim=0))


def test_every_kind_of_convolution() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU6())
    assert {name: len(values) for name, values in score(model, [torch.rand(2, 3, 8, 8)]).items()} == {"0": 4, "2": 4}
    model = nn.Sequential(nn.Conv3d(1, 3, 2), nn.ReLU())
    volume = torch.rand(2, 1, 5, 8, 8)
    with torch.no_grad():
        slices = model(volume).transpose(1, 2).flatten(0, 1)
    expected = Formula().combine(*map_parts(slices)).mean(dim=0)
    torch.testing.assert_close(score(model, [volume])["0"], expected)
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU())
    assert len(score(model, [torch.rand(2, 2, 9)])["0"]) == 3


def test_regularised_and_fused_networks() -> None:
    model = create_model("lenet5", conv_relu=True)
    regularize(model, num_kept=30)
    x = torch.rand(2, 1, 28, 28)
    found, dense = score(model, [x]), score(to_dense(model), [x])
    for name in ("conv1", "conv2"):
        torch.testing.assert_close(found[name], dense[name], rtol=1e-4, atol=0)
    fused = score(fuse(model.eval()), [x])
    assert all(torch.equal(fused[name], found[name]) for name in found)


class TwoHeads(nn.Module):
    """A convolution that never runs, and one that runs as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.unused, self.function = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Any."""
        return torch.conv2d(torch.relu(self.body(x)), self.function.weight)


def test_layers_that_gave_no_map_are_named() -> None:
    found = score(TwoHeads(), [torch.rand(2, 3, 8, 8)])
    assert list(found) == ["body"]
    assert found.skipped == dict.fromkeys(("unused", "function"), "it did not run in the forward, or not as a module")
    with pytest.raises(StructureError, match="no layer gave feature maps"):
        score(TwoHeads(), [torch.rand(2, 3, 8, 8)], layers=["unused"])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_scores_every_layer(method: Any) -> None:
    found = score(Residual(), [torch.rand(3, 3, 8, 8)], method=method)
    assert isinstance(found, Scores)
    assert found.method == method
    assert {name: tuple(values.shape) for name, values in found.items()} == dict.fromkeys(
        ("conv1", "conv2", "conv3"), (6,)
    )
    assert all(values.dtype == torch.float64 and not values.requires_grad for values in found.values())
    assert all(values.device.type == "cpu" and bool((values >= 0).all()) for values in found.values())
    assert (found.num_images > 0) == (method in ("spectral", "apoz", "hrank"))


@pytest.mark.parametrize("method", ["l1", "l2", "fpgm", "random"])
def test_methods_of_weights_need_no_loader(method: Any) -> None:
    assert len(score(Residual(), method=method)) == 3


def test_maps_of_baselines_are_the_same_maps() -> None:
    model = Residual()
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        maps = copy.deepcopy(model).eval().maps(x)["conv3"]
    found = score(model, [x], method="apoz")["conv3"]
    torch.testing.assert_close(found, (maps > 0).double().mean(dim=(0, 2, 3)))
    expected = torch.linalg.matrix_rank(maps).double().mean(dim=0)
    torch.testing.assert_close(score(model, [x], method="hrank")["conv3"], expected)


def test_random_follows_its_seed() -> None:
    first, second = (score(Residual(), method="random", seed=seed)["conv1"] for seed in (3, 4))
    assert torch.equal(first, score(Residual(), method="random", seed=3)["conv1"])
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "best"}, "method must be one of spectral, l1, l2, fpgm, apoz, hrank, bn_scale, random; got 'best'"),
        ({"num_batches": 0}, "num_batches must be an integer of at least 1, or None for all; got 0"),
        ({"num_batches": 1.5}, "got 1.5"),
        ({"num_batches": 0, "method": "l1"}, "or None for all; got 0"),
        ({"block_size": -4}, "block_size must be an integer of at least 1"),
        ({"variant": "mine"}, "variant must be one of"),
        ({"layers": []}, "layers names no layer"),
        ({"layers": ["conv9"]}, "expected a convolution or a linear layer named 'conv9', found nothing"),
        ({"layers": ["bn1"]}, "named 'bn1', found BatchNorm2d"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ArgumentError, StructureError)) as caught:
        score(Residual(), [torch.rand(2, 3, 8, 8)], **arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("loader", [[], [torch.rand(0, 3, 8, 8)], iter(())])
@pytest.mark.parametrize("method", ["spectral", "apoz", "bn_scale"])
def test_a_loader_that_gives_no_batch(loader: Any, method: Any) -> None:
    with pytest.raises(ArgumentError, match="the loader gave no batch"):
        score(Residual(), loader, method=method)


def test_no_loader() -> None:
    with pytest.raises(ArgumentError, match="the method spectral runs the network: give a loader"):
        score(Residual())


@pytest.mark.parametrize("method", ["spectral", "apoz", "hrank"])
def test_maps_that_are_not_numbers_name_the_first_layer(method: Any) -> None:
    model = Residual()
    with torch.no_grad():
        model.conv2.weight[1, 2, 0, 0] = float("nan")
    with pytest.raises(StructureError, match="the feature maps of layer conv2 hold NaN or infinity"):
        score(model, [torch.rand(2, 3, 8, 8)], method=method)


def test_a_network_without_convolutions() -> None:
    with pytest.raises(StructureError, match=r"LeNet300 has no convolution.*score\(layers=\["):
        score(create_model("lenet300"), [torch.rand(1, 1, 28, 28)])


def test_no_batch_norm_to_score_by() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(StructureError, match="no batch norm with a scale follows any of the layers"):
        score(model, [torch.rand(1, 3, 8, 8)], method="bn_scale")


def test_two_processes_score_as_one_does(tmp_path: Path) -> None:
    script = Path(__file__).parent / "score_two_processes.py"
    with subprocess.Popen([sys.executable, script, "1", tmp_path]) as other:
        score_together(0, tmp_path)
    assert other.returncode == 0
    for ending, num_batches, num_images in (("", 4, 14), ("-alone", 3, 9)):
        expected = score(network(), batches()[:num_batches])
        for rank in range(2):
            found = Scores.load(tmp_path / f"{rank}{ending}.json")
            assert found.num_images == expected.num_images == num_images
            for name, values in expected.items():
                torch.testing.assert_close(found[name], values, rtol=1e-12, atol=0)
    own = Scores.load(tmp_path / "0-own.json")
    assert own.num_images == 9
    for name, values in score(network(), batches()[:3]).items():
        torch.testing.assert_close(own[name], values, rtol=1e-12, atol=0)


def test_maps_of_resnet20_are_those_behind_its_activations() -> None:
    torch.manual_seed(0)
    model = create_model("resnet20", normalize=True).eval()
    x = torch.rand(2, 3, 32, 32)
    behind = {"conv1": "relu"}
    for stage in (1, 2, 3):
        for block in range(3):
            for number in (1, 2):
                behind[f"layer{stage}.{block}.conv{number}"] = f"layer{stage}.{block}.relu{number}"
    outputs: dict[str, Tensor] = {}
    for name, relu in behind.items():

        def keep(module: nn.Module, arguments: Any, output: Tensor, name: str = name) -> None:
            outputs[name] = output.clone()

        model.get_submodule(relu).register_forward_hook(keep)
    found = score(model, [x])
    assert list(found) == list(behind)
    for name, maps in outputs.items():
        expected = Formula().combine(*map_parts(maps)).mean(dim=0)
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=0)


def test_a_convolution_in_a_shortcut_shares_the_map_of_the_block() -> None:
    found = score(create_model("resnet18", width=8, small_input=True), [torch.rand(2, 3, 32, 32)])
    for stage in (2, 3, 4):
        assert torch.equal(found[f"layer{stage}.0.downsample.0"], found[f"layer{stage}.0.conv2"])
        assert not torch.equal(found[f"layer{stage}.1.conv2"], found[f"layer{stage}.0.conv2"])


@pytest.mark.parametrize(
    "name",
    [
        "densenet40",
        "googlenet_cifar",
        "mobilenetv1_cifar",
        "mobilenetv2_cifar",
        "vgg16_bn_cifar",
        "resnet56",
        "unet",
        "dcgan_discriminator",
    ],
)
def test_every_convolution_of_registered_networks_has_its_map(name: str) -> None:
    model = create_model(name)
    x = torch.rand(1, *family(name).example_shape()[1:])
    found = score(model, [x])
    convolutions = [name for name, module in model.named_modules() if isinstance(module, _ConvNd)]
    assert list(found) == convolutions
    assert found.skipped == {}


class Drawing(nn.Module):
    """Counts its calls in evaluation too, and draws random numbers there."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return nn.functional.dropout(self.layer(x), 0.5, training=True).mean((2, 3))


@pytest.mark.parametrize("method", ["spectral", "hrank"])
def test_a_network_that_counts_and_draws_is_not_disturbed(method: Literal["spectral", "hrank"]) -> None:
    model, images = Drawing(), torch.rand(4, 3, 8, 8)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = score(model, [images], method=method)["layer"]
    assert torch.equal(torch.get_rng_state(), before)
    assert model.state_dict()["calls"] == 0
    assert torch.equal(score(model, [images], method=method)["layer"], first)


FORMULA: dict[str, Any] = {
    "variant": "published",
    "block_size": 8,
    "gaussian_sigma": None,
    "spatial_weight": 0.5,
    "components": "dist",
}


@pytest.mark.parametrize("name", FORMULA)
def test_settings_of_the_formula_belong_to_its_method(name: str) -> None:
    model, x = create_model("lenet5"), torch.rand(2, 1, 28, 28)
    for method in METHODS:
        given = {"method": method, "layers": ["conv1"], name: FORMULA[name]}
        if method == "spectral":
            score(model, [x], **given)
            continue
        with pytest.raises(ArgumentError, match=f"the method {method} has no {name}: only"):
            score(model, [x], **given)


@pytest.mark.parametrize("method", ["l1", "spectral"])
def test_layers_that_wait_for_a_first_forward_are_reported(method: Literal["l1", "spectral"]) -> None:
    with pytest.raises(ArgumentError, match="0\\.weight is not initialised yet: run one forward first"):
        score(nn.Sequential(nn.LazyConv2d(8, 3)), torch.rand(2, 3, 8, 8), method=method)
