"""FGSM and PGD against gradients by hand, and their bounds."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from tailcut.data import InMemoryDataset, open_dataset
from tailcut.errors import ArgumentError
from tailcut.evaluation.evaluate import evaluate
from tailcut.format import save
from tailcut.inputs import replace_stem, transform_of
from tailcut.structure import create_model, set_class_names
from tailcut.tasks.attack import (
    EPSILONS,
    AttackPlan,
    AttackReport,
    accuracies_under_attack,
    attack_files,
    draw_curves,
    fgsm,
    pgd,
    step_size_of,
)
from tailcut.weights import regularize


def classifier(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 10)).eval()


def images(num: int = 4) -> tuple[Tensor, Tensor]:
    x, target = open_dataset("digits", "test").batch(range(num))
    return x, target


def test_one_step_by_hand() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(16, 5)
    model = nn.Sequential(nn.Flatten(), linear).double()
    x, target = torch.rand(3, 1, 4, 4, dtype=torch.float64), torch.tensor([4, 0, 2])
    weight = linear.weight.detach()
    # The cross entropy of a linear classifier has the gradient W^T (p - y).
    error = model(x).detach().softmax(dim=1) - nn.functional.one_hot(target, 5)
    expected = (x + 0.1 * (error @ weight).sign().view_as(x)).clamp(0, 1)
    assert torch.equal(fgsm(model, x, target, 0.1), expected)
    assert torch.equal(pgd(model, x, target, 0.1, steps=1, step_size=0.1), expected)
    # Two steps of a linear classifier whose gradient keeps its signs are one of the sum.
    small = pgd(model, x, target, 1e-6, steps=2, step_size=4e-7)
    torch.testing.assert_close(small, (x + 8e-7 * (error @ weight).sign().view_as(x)).clamp(0, 1), rtol=0, atol=1e-12)


def test_images_do_not_depend_on_their_batch() -> None:
    model = classifier()
    x, target = images(5)
    one_by_one = torch.cat([fgsm(model, x[i : i + 1], target[i : i + 1], 0.2) for i in range(5)])
    assert float((fgsm(model, x, target, 0.2) != one_by_one).float().mean()) < 1e-3


@settings(max_examples=25)
@given(
    epsilon=st.floats(0, 1),
    steps=st.integers(1, 5),
    step_size=st.none() | st.floats(1e-3, 2),
    seed=st.none() | st.integers(0, 9),
)
def test_pgd_stays_within_epsilon_and_within_pixels(
    epsilon: float, steps: int, step_size: float | None, seed: int | None
) -> None:
    x, target = images(3)
    noise = None if seed is None else torch.Generator().manual_seed(seed)
    moved = pgd(classifier(), x, target, epsilon, steps=steps, step_size=step_size, noise=noise)
    assert moved.shape == x.shape
    assert float((moved - x).abs().max()) <= epsilon + 1e-6
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    if epsilon == 0:
        assert torch.equal(moved, x)


def test_attacks_raise_the_loss_and_more_steps_raise_it_more() -> None:
    model = classifier()
    x, target = images(40)

    def loss(moved: Tensor) -> float:
        return float(nn.functional.cross_entropy(model(moved), target).detach())

    plain, one = loss(x), loss(fgsm(model, x, target, 0.1))
    many = loss(pgd(model, x, target, 0.1, steps=20))
    assert plain < one < many


def test_nothing_is_changed() -> None:
    model = classifier()
    x, target = images()
    before = x.clone()
    fgsm(model, x, target, 0.3)
    pgd(model, x, target, 0.3, noise=torch.Generator())
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_within_inference_mode_too() -> None:
    model = classifier()
    x, target = images()
    expected = fgsm(model, x, target, 0.3), pgd(model, x, target, 0.3)
    with torch.inference_mode():
        found = fgsm(model, x.clone(), target, 0.3), pgd(model, x.clone(), target, 0.3)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_memory_that_a_gradient_lacks_is_told() -> None:
    class Large(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("no memory")

    with pytest.raises(ArgumentError, match="memory"):
        fgsm(Large(), *images(), 0.3)


def test_step_sizes() -> None:
    assert AttackPlan().step_sizes == list(EPSILONS)
    assert AttackPlan("pgd", (0.2, 0.4), steps=5).step_sizes == pytest.approx([0.1, 0.2])
    assert AttackPlan("pgd", (0.2, 0.4), step_size=2 / 255).step_sizes == [2 / 255] * 2
    assert step_size_of(0.1, 10, None) == pytest.approx(0.025)
    assert (AttackPlan().num_steps, AttackPlan("pgd").num_steps) == (1, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "cw"}, "the attack must be one of fgsm, pgd; got 'cw'"),
        ({"steps": 3}, "FGSM has one step, of epsilon"),
        ({"step_size": 0.1}, "FGSM has one step, of epsilon"),
        ({"epsilons": ()}, "give at least one epsilon"),
        ({"epsilons": (0.1, -0.1)}, "epsilon must be 0 to 1, the range of pixels; got -0.1"),
        ({"epsilons": (8.0,)}, "got 8.0"),
        ({"epsilons": (math.nan,)}, "got nan"),
        ({"method": "pgd", "steps": 0}, "at least 1 step of a size above 0, got 0 steps"),
        ({"method": "pgd", "step_size": 0.0}, "step size 0.0"),
        ({"method": "pgd", "step_size": math.inf}, "step size inf"),
    ],
)
def test_plans_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        AttackPlan(**arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("plan", [AttackPlan("fgsm", (0, 0.1, 0.3)), AttackPlan("pgd", (0, 0.1, 0.3), steps=3)])
def test_accuracies(plan: AttackPlan) -> None:
    dataset = open_dataset("digits", "test").part(0, 60)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    x, target = open_dataset("digits", "train").batch(range(1442))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()
    found = accuracies_under_attack(model, dataset, plan, batch_size=25)
    assert found[0] == evaluate(model, dataset)["accuracy"] > 0.85
    assert found[0] > found[1] > found[2]
    assert found == accuracies_under_attack(model, dataset, plan, batch_size=25)
    if plan.method == "fgsm":
        x, target = dataset.batch(range(60))
        by_hand = (model(fgsm(model, x, target, 0.1)).argmax(dim=1) == target).double().mean()
        assert found[1] == pytest.approx(float(by_hand), abs=1e-9)


def test_regularised_networks_are_attacked_as_they_are() -> None:
    model = create_model("lenet300")
    regularize(model, num_kept=200)
    dataset = open_dataset("digits", "test").part(0, 20)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    accuracies_under_attack(model.train(), dataset, AttackPlan(epsilons=(0.1,)))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_networks_on_frequency_channels_are_attacked_by_their_pixels() -> None:
    torch.manual_seed(0)
    model = replace_stem(create_model("resnet18", width=4, num_classes=3), channels=6).eval()
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8)
    dataset = InMemoryDataset("noise", "test", images, torch.arange(12) % 3, ["a", "b", "c"])
    found = accuracies_under_attack(model, dataset, AttackPlan("fgsm", (0, 0.1)))
    x, classes = dataset.batch(range(12))
    read = transform_of(model)
    assert read is not None
    moved = fgsm(nn.Sequential(read, model), x, classes, 0.1)
    expected = [(model(read(batch)).argmax(dim=1) == classes).double().mean().item() for batch in (x, moved)]
    assert found == pytest.approx(expected)
    assert (moved - x).abs().max() > 0.05


def test_networks_that_do_not_fit() -> None:
    dataset = open_dataset("digits", "test").part(0, 5)
    with pytest.raises(ArgumentError, match=r"has 10 classes for classification.*; the network gives \(5, 3\)"):
        accuracies_under_attack(nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), dataset, AttackPlan())
    with pytest.raises(ArgumentError, match="the network cannot take images of shape"):
        accuracies_under_attack(nn.Conv2d(3, 4, 3), dataset, AttackPlan())
    with pytest.raises(ArgumentError, match="batch_size must be at least 1"):
        accuracies_under_attack(nn.Flatten(), dataset, AttackPlan(), batch_size=0)
    dataset.task = "segmentation"
    with pytest.raises(ArgumentError, match="attacks need a data set of classes"):
        accuracies_under_attack(nn.Flatten(), dataset, AttackPlan())


def test_two_files_and_their_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        torch.manual_seed(ord(name))
        save(create_model("lenet300"), tmp_path / f"{name}.tailcut")
    files = [tmp_path / "a.tailcut", tmp_path / "b.tailcut"]
    plan = AttackPlan("pgd", (0.0, 0.1), steps=2)
    report = attack_files(files, "digits", plan=plan, num_images=30, out=tmp_path / "curves.png", device="cpu")
    assert isinstance(report, AttackReport)
    assert (report.num_images, report.split, report.steps) == (30, "test[0:30]", 2)
    assert [curve.source for curve in report.curves] == [str(file) for file in files]
    assert report.step_sizes == pytest.approx([0, 0.125])
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG"
    lines = str(report).splitlines()
    assert lines[2].split()[:2] == ["0", "0"]
    assert lines[-1] == "pgd, 2 steps: accuracy on 30 images of digits, test[0:30]"
    with pytest.raises(
        ArgumentError, match="num_images must be 1 to 355, the images of digits, split test, got 1000000"
    ):
        attack_files(files, "digits", plan=plan, num_images=10**6)


def test_curves_show_the_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tailcut.tasks import attack

    figures: list[Any] = []
    monkeypatch.setattr(attack, "write_figure", lambda figure, path: figures.append(figure))
    report = attack_files_of(accuracies=[0.9, 0.4])
    draw_curves(report, tmp_path / "a.png")
    (line,) = figures[0].axes[0].get_lines()
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([0.0, 0.1], [90.0, 40.0])


def test_curves_of_a_file_whose_name_begins_with_an_underscore_are_in_the_legend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    from tailcut.tasks import attack

    figures: list[Any] = []
    monkeypatch.setattr(attack, "write_figure", lambda figure, path: figures.append(figure))
    draw_curves(attack_files_of(accuracies=[0.9, 0.4], source="_a.tailcut"), tmp_path / "a.png")
    assert [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()] == ["./_a.tailcut"]


def attack_files_of(accuracies: list[float], source: str = "a") -> AttackReport:
    from tailcut.tasks.attack import AttackCurve

    return AttackReport("digits", "test", 3, "fgsm", [0.0, 0.1], 1, [0.0, 0.1], [AttackCurve(source, accuracies)], 1.0)


def test_names_of_other_classes_are_refused() -> None:
    dataset = open_dataset("digits", "test").part(0, 5)
    model = create_model("lenet300")
    set_class_names(model, dataset.class_names[::-1])
    with pytest.raises(ArgumentError, match="class 0 is '9' for the network and '0' in digits"):
        accuracies_under_attack(model, dataset, AttackPlan())
