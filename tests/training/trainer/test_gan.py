import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy, interpolate

from tailcut.data import open_dataset
from tailcut.errors import TrainingError
from tailcut.evaluation.generation import evaluate_generator
from tailcut.format import inspect, load
from tailcut.runs import Run
from tailcut.structure import create_model
from tailcut.tasks.pack import pack
from tailcut.training.batches import batches as batches_of_an_epoch
from tailcut.training.batches import generator as generator_of
from tailcut.training.checkpoints import read_checkpoint
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.sections import AugmentationSection
from tailcut.training.recipe.toml_files import load_recipe, parse_recipe
from tailcut.training.train import train
from tailcut.training.trainer import base

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = """
name = "small"
model = { name = "dcgan_generator", arguments = { width = 2, latent_size = 6 } }

[data]
name = "digits"
holdout = 1378
batch_size = 16

[regularization]
keep_ratio = 0.5

[schedule]
keep_ratio = 0.1
spacing = "geometric"
fraction = 0.5
every = 1

[optimizer]
lr = 0.0002
betas = [0.5, 0.999]

[training]
epochs = 3
seed = 3
loss = "gan"
validate_every = 3

[generation]
num_samples = 30
discriminator = { name = "dcgan_discriminator", arguments = { width = 2 } }
"""
DENSE = ("regularization=", "schedule=")


def small_recipe(*overrides: str) -> Recipe:
    return parse_recipe(RECIPE, source="small.toml", overrides=overrides)


def numbers_of(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_checkpoint(Run(path).last_checkpoint)["model"]
    return state


def test_steps_are_those_of_two_optimizers_by_hand(tmp_path: Path) -> None:
    """The usual training of a DCGAN, written down plainly: two networks, two optimisers, probabilities."""
    recipe = small_recipe("training.epochs=1", *DENSE)
    train(recipe, tmp_path / "run")

    torch.manual_seed(generator_of(3).initial_seed())
    generator = create_model("dcgan_generator", width=2, latent_size=6)
    discriminator = create_model("dcgan_discriminator", width=2)
    by_generator, by_discriminator = (
        torch.optim.Adam(network.parameters(), lr=0.0002, betas=(0.5, 0.999)) for network in (generator, discriminator)
    )
    torch.manual_seed(generator_of(3, 0, 1).initial_seed())
    digits = open_dataset("digits", "train").part(0, 64)
    settings: dict[str, Any] = {"batch_size": 16, "seed": 3, "epoch": 0, "augmentation": AugmentationSection()}
    for images, *_ in batches_of_an_epoch(digits, **settings):
        real = 2 * interpolate(images, size=(64, 64), mode="bilinear", antialias=True) - 1
        made = generator(torch.randn(16, 6))
        right = binary_cross_entropy(discriminator(real).sigmoid(), torch.ones(16, 1))
        wrong = binary_cross_entropy(discriminator(made.detach()).sigmoid(), torch.zeros(16, 1))
        by_discriminator.zero_grad()
        (right + wrong).backward()
        by_discriminator.step()
        by_generator.zero_grad()
        binary_cross_entropy(discriminator(made).sigmoid(), torch.ones(16, 1)).backward()
        by_generator.step()

    numbers = numbers_of(tmp_path / "run")
    for part, network in (("generator", generator), ("discriminator", discriminator)):
        for name, value in network.state_dict().items():
            # Adam's first steps have the size of the rate, whatever the gradient: rounding may turn a tiny one.
            assert (numbers[f"{part}.{name}"] - value).abs().float().mean() < 2e-6, name


def test_a_run_packs_both_networks_and_measures_the_generator(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tailcut")
    result = train(small_recipe(), tmp_path / "run", command="tailcut train small")
    run = Run(tmp_path / "run")
    generator, discriminator = inspect(run.model), inspect(run.discriminator)
    assert (generator.model, discriminator.model) == ("dcgan_generator", "dcgan_discriminator")
    assert result.num_kept == generator.num_kept
    assert result.num_parameters == generator.num_parameters
    assert result.file_bytes == run.model.stat().st_size
    assert result.metrics == evaluate_generator(load(run.model), open_dataset("digits", "test"), num_samples=30)
    assert result.validation.keys() == result.metrics.keys() == {"fid"}
    lines = run.read_metrics()
    assert lines[-1]["num_kept"] == generator.num_kept + discriminator.num_kept
    assert lines[0]["num_kept"] > lines[-1]["num_kept"]
    assert "epoch 3 of this process: discriminator " in caplog.text

    pack(run.path, tmp_path / "again.tailcut")
    assert (tmp_path / "again.tailcut").read_bytes() == run.model.read_bytes()


@pytest.mark.parametrize("overrides", [(), ("training.execution=fused", "optimizer.ema_decay=0.9"), DENSE])
def test_a_stopped_run_ends_as_one_that_was_not(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe("generation.num_samples=10", *overrides)
    train(recipe, tmp_path / "whole")

    def batches(*args: Any, **settings: Any) -> Iterator[Any]:
        for number, batch in enumerate(batches_of_an_epoch(*args, **settings)):
            if (settings["epoch"], number) == (1, 2):
                signal.raise_signal(signal.SIGINT)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(base, "batches", batches)
        with pytest.raises(TrainingError, match="interrupted in epoch 2, step 3"):
            train(recipe, tmp_path / "parts")
    torch.manual_seed(99)
    train(recipe, tmp_path / "parts", resume=True)
    one, other = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    assert one.model.read_bytes() == other.model.read_bytes()
    assert one.discriminator.read_bytes() == other.discriminator.read_bytes()
    left, right = numbers_of(one.path), numbers_of(other.path)
    assert left.keys() == right.keys()
    assert all(torch.equal(value, right[name]) for name, value in left.items())


def test_fused_and_dense_training_go_the_same_way(tmp_path: Path) -> None:
    overrides = ("training.epochs=1", "training.validate_every=1")
    for execution in ("dense", "fused"):
        train(small_recipe(f"training.execution={execution}", *overrides), tmp_path / execution)
    losses = {name: Run(tmp_path / name).read_metrics()[0] for name in ("dense", "fused")}
    assert losses["fused"]["execution"] in ("fused", "compiled")
    assert losses["fused"]["loss"] == pytest.approx(losses["dense"]["loss"], rel=1e-3)


def test_the_discriminator_learns(tmp_path: Path) -> None:
    train(
        small_recipe("optimizer.lr=0.002", "training.epochs=6", "training.validate_every=6", *DENSE), tmp_path / "run"
    )
    discriminator = load(Run(tmp_path / "run").discriminator)
    generator = load(Run(tmp_path / "run").model)
    digits = open_dataset("digits", "test").batch(range(100))[0]
    real = 2 * interpolate(digits, size=(64, 64), mode="bilinear", antialias=True) - 1
    with torch.no_grad():
        made = generator(torch.randn(100, 6, generator=torch.Generator().manual_seed(0)))
        assert discriminator(real).mean() > discriminator(made).mean() + 0.5


@pytest.mark.parametrize(("name", "num_kept"), [("gan-ref", 0), ("gan-64383", 64_383)])
def test_a_step_of_the_recipes_that_ship(name: str, num_kept: int, tmp_path: Path) -> None:
    overrides = ["data.name=digits", "data.holdout=1440", "data.batch_size=2", "training.epochs=1"]
    recipe = load_recipe(name, [*overrides, "training.validate_every=2", "generation.num_samples=2"])
    assert recipe.paper is not None
    assert recipe.paper.num_kept == (num_kept or None)
    result = train(recipe, tmp_path / "run")
    run = Run(tmp_path / "run")
    reports = [inspect(run.model), inspect(run.discriminator)]
    assert sum(report.num_kept for report in reports) == num_kept
    assert sum(report.num_parameters for report in reports) == 6_338_176
    assert result.num_parameters == 3_574_656
    assert result.metrics.keys() == {"fid"}


def test_the_averaged_generator_has_statistics_of_its_own_images(tmp_path: Path) -> None:
    """Its running statistics are those of one pass with the averaged numbers, not of the numbers that trained."""
    recipe = small_recipe("optimizer.ema_decay=0.9", "optimizer.lr=0.01", *DENSE, "pack.other_dtype=float32")
    train(recipe, tmp_path / "run")
    generator = load(tmp_path / "run" / "model.tailcut")
    seen: dict[str, list[torch.Tensor]] = {}
    norms = {name: part for name, part in generator.named_modules() if isinstance(part, torch.nn.BatchNorm2d)}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(lambda _, inputs, name=name: seen.setdefault(name, []).append(inputs[0]))
        norm.train()
    random = torch.Generator().manual_seed(recipe.training.seed)
    before = {name: {key: x.clone() for key, x in norm.named_buffers()} for name, norm in norms.items()}
    with torch.no_grad():
        for _ in range(64 // 16):  # as many as there are images
            generator(torch.randn(16, 6, generator=random))
    assert norms
    for name, buffers in before.items():
        batches = [x.transpose(0, 1).flatten(1) for x in seen[name]]
        means, variances = torch.stack([x.mean(1) for x in batches]), torch.stack([x.var(1) for x in batches])
        torch.testing.assert_close(buffers["running_mean"], means.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(buffers["running_var"], variances.mean(0), rtol=1e-4, atol=1e-5)
