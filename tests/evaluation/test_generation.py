import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn.functional import interpolate

from tailcut.data import InMemoryDataset, open_dataset
from tailcut.errors import ArgumentError, RecipeError, TrainingError
from tailcut.evaluation.files import evaluate_file, task_of_file
from tailcut.evaluation.generation import (
    GenerationReport,
    Sampler,
    evaluate_generator,
    latent_codes,
)
from tailcut.evaluation.metrics.fid import FeatureNetwork, FeatureStatistics, frechet_distance
from tailcut.execution import fuse
from tailcut.format import inspect, load, save
from tailcut.models import VAE
from tailcut.runs import Run
from tailcut.runtime.share import Share
from tailcut.structure import create_model
from tailcut.tasks.pack import pack
from tailcut.training.batches import batches as batches_of_an_epoch
from tailcut.training.checkpoints import read_checkpoint
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.toml_files import load_recipe, parse_recipe
from tailcut.training.train import train
from tailcut.training.trainer import base, image_network
from tailcut.weights import regularize, to_dense

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = """
name = "small"
model = { name = "vae", arguments = { hidden = 24, latent_size = 3 } }

[data]
name = "digits"
holdout = 900
batch_size = 64

[regularization]
keep_ratio = 0.5

[schedule]
keep_ratio = 0.1
spacing = "geometric"
fraction = 0.5
every = 2

[optimizer]
lr = 0.01

[training]
epochs = 2
seed = 3
loss = "vae"

[generation]
num_samples = 60

[pack]
dtype = "float16"
"""
DIGITS = open_dataset("digits", "test")


def small_recipe(*overrides: str) -> Recipe:
    return parse_recipe(RECIPE, source="small.toml", overrides=overrides)


def small_vae() -> VAE:
    torch.manual_seed(0)
    model = create_model("vae", hidden=16, latent_size=3)
    assert isinstance(model, VAE)
    return model


def moments_of(images: Tensor) -> tuple[Tensor, Tensor]:
    statistics = FeatureStatistics()
    statistics.update(FeatureNetwork()(images))
    return statistics.moments()


def test_images_are_what_the_networks_make_of_codes() -> None:
    model = small_vae()
    codes = torch.randn(4, 3)
    assert Sampler(model).code_size == 3
    torch.testing.assert_close(Sampler(model)(codes), torch.sigmoid(model.decoder(codes)).view(4, 1, 28, 28))
    generator = create_model("dcgan_generator", latent_size=5, width=4)
    codes = torch.randn(4, 5)
    made = Sampler(generator)(codes)
    torch.testing.assert_close(made, (generator.eval()(codes) + 1) / 2)
    assert made.shape == (4, 1, 64, 64)
    assert 0 <= made.min() <= made.max() <= 1


def test_a_truncated_generator_makes_the_same_fused_and_dense() -> None:
    torch.manual_seed(1)
    generator = create_model("dcgan_generator", latent_size=5, width=4)
    regularize(generator, keep_ratio=0.05)
    codes = torch.randn(4, 5)
    dense = Sampler(generator, dense=True)(codes)
    torch.testing.assert_close(Sampler(generator)(codes), dense, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(Sampler(fuse(generator))(codes), dense, atol=1e-5, rtol=1e-4)
    assert generator.training
    model = small_vae()
    regularize(model, keep_ratio=0.2)
    torch.testing.assert_close(Sampler(fuse(model))(codes[:, :3]), Sampler(to_dense(model))(codes[:, :3]))


def test_codes_follow_from_the_seed_alone() -> None:
    sampler = Sampler(small_vae())
    assert torch.equal(latent_codes(sampler, 5, 7), torch.randn(5, 3, generator=torch.Generator().manual_seed(7)))
    for num, seed in ((0, 0), (5, -1)):
        with pytest.raises(ArgumentError, match="num_samples must be at least 1 and seed at least 0"):
            latent_codes(sampler, num, seed)
    assert latent_codes(sampler, 5, 2**64 - 1).shape == (5, 3)
    with pytest.raises(ArgumentError, match="seed must be at most 18446744073709551615, got 18446744073709551616"):
        latent_codes(sampler, 5, 2**64)
    for num in (10**14, 2**63, 10**30):  # no machine has so much; torch counts to 2^63 - 1
        with pytest.raises(ArgumentError, match=f"num_samples: the memory does not hold {num:,} codes of 3 numbers"):
            latent_codes(sampler, num, 0)


def test_the_figures_of_a_vae_are_those_of_the_definitions() -> None:
    model = small_vae().eval()
    real, _ = DIGITS.batch(range(len(DIGITS)))
    codes = torch.randn(80, 3, generator=torch.Generator().manual_seed(4))
    noise = torch.randn(len(DIGITS), 3, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        mean, log_variance = model.encode(real)
        code = Normal(mean, (log_variance / 2).exp())
        pixels = Bernoulli(logits=model.decode(mean + code.scale * noise), validate_args=False)
        bound = pixels.log_prob(real).sum(dim=(1, 2, 3)) - kl_divergence(code, Normal(0, 1)).sum(1)
        made = torch.sigmoid(model.decode(codes))
    figures = evaluate_generator(model, DIGITS, num_samples=80, seed=4)
    assert figures.keys() == {"fid", "elbo"}
    assert figures["elbo"] == pytest.approx(bound.double().mean().item(), rel=1e-5)
    assert figures["fid"] == pytest.approx(frechet_distance(*moments_of(made), *moments_of(real)), rel=1e-5)


def test_real_images_are_first_brought_to_the_size_of_the_made_ones() -> None:
    generator = create_model("dcgan_generator", latent_size=5, width=4)
    codes = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made = (generator.eval()(codes) + 1) / 2
    real = interpolate(DIGITS.batch(range(len(DIGITS)))[0], size=(64, 64), mode="bilinear", antialias=True)
    figures = evaluate_generator(generator, DIGITS, num_samples=50)
    assert figures == {"fid": pytest.approx(frechet_distance(*moments_of(made), *moments_of(real)), rel=1e-5)}


def test_figures_depend_neither_on_batches_nor_on_processes() -> None:
    settings: dict[str, Any] = {"num_samples": 30, "seed": 1}
    model = small_vae()
    expected = evaluate_generator(model, DIGITS, **settings)
    assert evaluate_generator(model, DIGITS, batch_size=11, **settings) == pytest.approx(expected, rel=1e-6)

    states: list[list[Tensor]] = []
    for rank in range(3):
        mine: list[Tensor] = []

        def remember(state: Tensor, mine: list[Tensor] = mine) -> Tensor:
            mine.append(state.clone())
            return torch.full_like(state, 2.0)  # as good as any for a process alone

        evaluate_generator(
            model, DIGITS, batch_size=10, share=Share(torch.device("cpu"), rank, 3, remember), **settings
        )
        states.append(mine)
    made, real, elbo = (torch.stack(parts).sum(0) for parts in zip(*states, strict=True))
    assert [float(count) for count in (made[0], real[0], elbo[1])] == [30, len(DIGITS), len(DIGITS)]
    assert float(elbo[0] / elbo[1]) == pytest.approx(expected["elbo"], rel=1e-6)
    one, other = FeatureStatistics(), FeatureStatistics()
    one.state, other.state = made, real
    assert frechet_distance(*one.moments(), *other.moments()) == pytest.approx(expected["fid"], rel=1e-6)


def test_what_cannot_be_measured_is_reported() -> None:
    colour = InMemoryDataset("colour", "test", torch.zeros(2, 3, 28, 28, dtype=torch.uint8), torch.zeros(2).long(), "a")
    with pytest.raises(ArgumentError, match=r"of 1 channel; the network makes images of 1, colour has 3"):
        evaluate_generator(small_vae(), colour, num_samples=5)
    with pytest.raises(ArgumentError, match="LeNet300 makes no images; vae and dcgan_generator do"):
        evaluate_generator(create_model("lenet300"), DIGITS)
    with pytest.raises(ArgumentError, match="num_samples at least 2, got 250 and 1"):
        evaluate_generator(small_vae(), DIGITS, num_samples=1)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_images_that_are_no_numbers_are_reported(number: float) -> None:
    model = small_vae()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.fill_(number)
    with pytest.raises(ArgumentError, match="the network's images are not numbers"):
        evaluate_generator(model, DIGITS, num_samples=20)


def test_the_largest_seed_has_noise_too() -> None:
    model = small_vae()
    figures = evaluate_generator(model, DIGITS, num_samples=20, seed=2**64 - 1)
    assert figures["elbo"] == pytest.approx(evaluate_generator(model, DIGITS, num_samples=20)["elbo"], rel=0.1)


def test_a_run_keeps_its_result_with_a_figure_that_is_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {"fid": 9.5, "elbo": float("nan")}
    monkeypatch.setattr(image_network, "evaluate_generator", lambda *args, **settings: figures)
    train(small_recipe("training.epochs=1"), tmp_path / "run")
    run = Run(tmp_path / "run")
    for path in (run.metrics, run.result):
        json.loads(path.read_text(), parse_constant=pytest.fail)
    assert run.read_metrics()[0]["metrics"] == {"fid": 9.5, "elbo": None}
    assert run.read_result().metrics == pytest.approx(figures, nan_ok=True)


def test_the_report_of_a_file_says_what_was_measured(tmp_path: Path) -> None:
    save(small_vae(), tmp_path / "vae.tailcut")
    save(create_model("lenet300"), tmp_path / "lenet.tailcut")
    assert task_of_file(tmp_path / "vae.tailcut") == "generation"
    assert task_of_file(tmp_path / "lenet.tailcut") == "prediction"
    report = evaluate_file(tmp_path / "vae.tailcut", "digits", num_samples=25, seed=2, device="cpu")
    assert isinstance(report, GenerationReport)
    values = json.loads(report.to_json())
    keys = ["source", "data", "split", "num_images", "metrics", "seconds", "num_generated", "seed", "features"]
    assert list(values) == keys
    assert (report.num_images, report.num_generated, report.seed) == (355, 25, 2)
    assert report.metrics == evaluate_generator(load(tmp_path / "vae.tailcut"), DIGITS, num_samples=25, seed=2)
    text = str(GenerationReport("a", "mnist", "test", 10, {"fid": 93.957, "elbo": -98.1}, 1.0, 50, 0, "zoo:lenet5-ref"))
    assert text.splitlines()[2].split() == ["a", "mnist", "test", "10", "93.96", "-98.10", "1.0"]
    assert text.splitlines()[-1] == (
        "fid: 50 made images (seed 0) against the 10 real ones, by the features of zoo:lenet5-ref"
    )


def test_a_vae_learns_and_its_file_has_the_figures(tmp_path: Path) -> None:
    result = train(small_recipe("training.epochs=4"), tmp_path / "run")
    lines = Run(tmp_path / "run").read_metrics()
    elbos = [line["metrics"]["elbo"] for line in lines]
    assert elbos[-1] > elbos[0] + 50
    assert lines[-1]["loss"] == pytest.approx(-elbos[-1], rel=0.2)
    packed = load(tmp_path / "run" / "model.tailcut")
    assert result.metrics == evaluate_generator(packed, DIGITS, num_samples=60)
    assert result.validation.keys() == {"fid", "elbo"}
    assert f"{result.metrics['fid']:,.2f}" in str(result)
    pack(tmp_path / "run", tmp_path / "again.tailcut")
    assert (tmp_path / "again.tailcut").read_bytes() == Run(tmp_path / "run").model.read_bytes()


@pytest.mark.parametrize("execution", ["dense", "fused"])
def test_a_stopped_vae_ends_as_one_that_was_not(
    execution: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(f"training.execution={execution}", "optimizer.ema_decay=0.9")
    train(recipe, tmp_path / "whole")
    stopping = {"epoch": 1, "step": 2}

    def batches(*args: Any, **settings: Any) -> Iterator[Any]:
        for number, batch in enumerate(batches_of_an_epoch(*args, **settings)):
            if (settings["epoch"], number) == (stopping["epoch"], stopping["step"]):
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
    left, right = (read_checkpoint(run.last_checkpoint)["model"] for run in (one, other))
    assert all(torch.equal(value, right[name]) for name, value in left.items())
    assert one.read_result().metrics == other.read_result().metrics


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("training.loss=cross_entropy", "generation="),
            "the model vae needs training.loss 'vae', got 'cross_entropy'",
        ),
        (("model={ name = 'lenet300' }",), "the model lenet300 is for classes and masks, got 'vae'"),
        (("distillation.teacher=zoo:lenet5-ref",), "distillation: has no meaning for training.loss 'vae'"),
        (("training.label_smoothing=0.1",), "training.label_smoothing: has no meaning"),
    ],
)
def test_recipes_that_do_not_fit_are_reported(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        train(small_recipe(*overrides), tmp_path / "run")


@pytest.mark.parametrize(("name", "num_kept", "num_biases"), [("vae-ref", 0, 2_424), ("vae-97134", 97_134, 1_641)])
def test_a_step_of_the_recipes_that_ship(name: str, num_kept: int, num_biases: int, tmp_path: Path) -> None:
    overrides = ["data.name=digits", "data.batch_size=1400", "training.epochs=1", "generation.num_samples=20"]
    recipe = load_recipe(name, overrides)
    assert recipe.paper is not None
    assert recipe.paper.num_kept == (num_kept or None)
    result = train(recipe, tmp_path / "run")
    assert result.num_kept == inspect(Run(tmp_path / "run").model).num_kept == num_kept
    assert result.num_parameters == 971_200 + num_biases
    assert result.metrics.keys() == {"fid", "elbo"}


@pytest.mark.parametrize("name", ["vae", "dcgan_generator"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_measured(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = create_model(name).to(dtype)
    found = evaluate_generator(model, DIGITS, num_samples=20)
    assert all(math.isfinite(value) for value in found.values())


def test_settings_of_a_generator_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(create_model("vae", hidden=8), tmp_path / "vae.tailcut")
    given: dict[str, Any] = {}
    monkeypatch.setattr("tailcut.evaluation.files.evaluate_generator_file", lambda *words, **more: given.update(more))
    settings: dict[str, Any] = {"num_samples": 25, "seed": 2, "features": "inception", "dense": True, "batch_size": 7}
    evaluate_file(tmp_path / "vae.tailcut", "digits", device="cpu", **settings)
    assert {name: given[name] for name in settings} == settings


@pytest.mark.parametrize(("level", "name"), [(1, "vae.tailcut, level 1"), (None, "vae.tailcut")])
def test_the_level_of_a_generator_is_in_the_report(level: int | None, name: str, tmp_path: Path) -> None:
    model = small_vae()
    regularize(model, keep_ratio=0.5)
    save(model, tmp_path / "vae.tailcut", levels=(0.5,))
    report = evaluate_file(tmp_path / "vae.tailcut", "digits", num_samples=20, device="cpu", level=level)
    assert report.source == str(tmp_path / name)
