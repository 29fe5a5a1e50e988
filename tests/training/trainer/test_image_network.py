from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tailcut.errors import ArgumentError
from tailcut.format import load, save
from tailcut.runs import Run
from tailcut.runtime.devices import Devices, make_fabric
from tailcut.structure import create_model, register_model, registry
from tailcut.training.recipe.schema import Recipe
from tailcut.training.setup.job import Job
from tailcut.training.trainer.image_network import ImageNetwork

MakeRecipe = Callable[..., Recipe]

pytestmark = pytest.mark.usefixtures("one_thread")


class FlatExample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(1, 40, 5, 3), nn.Linear(40, 10)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.linear(self.convolution(images).relu().mean((2, 3)))
        return outputs


def network_of(recipe: Recipe, path: Path) -> ImageNetwork:
    return ImageNetwork(Job(recipe, Run(path), make_fabric(Devices("cpu"))))


def assert_same_parameters(one: ImageNetwork, other: ImageNetwork) -> None:
    torch.testing.assert_close(one.model.state_dict(), other.model.state_dict(), rtol=0, atol=0)


def test_the_network_depends_on_the_seed_alone(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    torch.manual_seed(99)
    first = network_of(make_recipe(), tmp_path)
    torch.manual_seed(100)
    again, other = network_of(make_recipe(), tmp_path), network_of(make_recipe("training.seed=4"), tmp_path)
    assert_same_parameters(first, again)
    with pytest.raises(AssertionError):
        assert_same_parameters(first, other)


def test_the_loss_is_that_of_torch(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    network = network_of(make_recipe(), tmp_path)
    images, targets = network.data.train.batch(torch.arange(16))
    module = network.wrap(network.choose_execution())
    loss = network.loss(module, images, targets, torch.arange(16), 1)
    assert loss.item() == pytest.approx(cross_entropy(network.model(images), targets).item(), rel=1e-5)


def test_a_packed_network_measures_as_it_did(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    network = network_of(make_recipe(), tmp_path)
    save(network.model, tmp_path / "packed.tailcut")
    packed = load(tmp_path / "packed.tailcut")
    test = network.data.test
    assert network.evaluate(packed, test) == network.evaluate(network.model, test)


def test_a_teacher_is_loaded_and_remembers_plain_images(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = create_model("lenet300", convolutional=True)
    save(teacher, tmp_path / "teacher.tailcut")
    taught = network_of(make_recipe(f"distillation.teacher={tmp_path / 'teacher.tailcut'}"), tmp_path / "run")
    assert taught.teacher is not None
    images, _ = taught.data.train.batch(torch.arange(8))
    with torch.no_grad():
        expected = teacher.eval()(images)
    torch.testing.assert_close(taught.teacher(images, torch.arange(8)), expected)
    assert network_of(make_recipe(), tmp_path / "other").teacher is None


def test_what_an_evaluation_refuses_is_told_before_the_training(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network of the user's that is registered with an example without the axis of batches."""
    monkeypatch.setattr(registry, "_families", dict(registry._families))
    register_model("flat_example", example_shape=(1, 28, 28))(FlatExample)
    recipe = make_recipe("model={name = 'flat_example'}", "training.execution=dense")
    with pytest.raises(
        ArgumentError, match=r"cannot take images of shape \(1, 28, 28\), its example input.*is \(1, 1, 28, 28\) meant"
    ):
        network_of(recipe, tmp_path)
