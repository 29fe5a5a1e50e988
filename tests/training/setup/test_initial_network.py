from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from tailcut.channels import recalibrate
from tailcut.counting import count_macs
from tailcut.data.dataset import InMemoryDataset
from tailcut.errors import ArgumentError, DataNotFoundError, RecipeError
from tailcut.evaluation.evaluate import evaluate
from tailcut.evaluation.random_batches import network_inputs, random_batches
from tailcut.format import fingerprint, load, save
from tailcut.inputs import BlockDCT, FrequencyGate, YCbCrPixels, transform_of
from tailcut.inputs.transform.input_transform import input_transform_of
from tailcut.runs import Run
from tailcut.runtime.devices import Devices
from tailcut.structure import create_model
from tailcut.tasks.prediction.predict import predict_file
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.toml_files import parse_recipe, to_toml
from tailcut.training.setup import data as setup_data
from tailcut.training.setup import initial_network
from tailcut.training.setup.build import load_teacher
from tailcut.training.setup.initial_network import (
    check_data_files,
    fresh_network,
    load_start,
    make_start,
    needed_runs,
    needs_start,
    parent,
    parent_fingerprint,
)
from tailcut.training.train import train
from tailcut.weights import truncated_tensors

MakeRecipe = Callable[..., Recipe]

RESNET = """
name = "slim"
[model]
name = "resnet20"
arguments = { width = 8 }
[data]
name = "cifar10"
[optimizer]
lr = 0.01
[training]
epochs = 1
"""


@pytest.fixture
def colours() -> InMemoryDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return InMemoryDataset("colours", "train", images, torch.arange(24) % 10, [str(number) for number in range(10)])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run")


def recipe_of(text: str, *overrides: str) -> Recipe:
    return parse_recipe(RESNET + text, source="slim.toml", overrides=overrides)


def started(recipe: Recipe, run: Run, dataset: InMemoryDataset) -> nn.Module:
    torch.manual_seed(0)
    make_start(recipe, run, dataset)
    return load_start(run)


def test_plain_recipes_start_from_fresh_parameters(make_recipe: MakeRecipe) -> None:
    assert not needs_start(make_recipe())
    assert needs_start(recipe_of("[pruning]\nrates = 0.3"))


def test_fresh_parameters_have_no_parent(run: Run, colours: InMemoryDataset) -> None:
    assert parent_fingerprint(run) == ""
    started(recipe_of('[pruning]\nrates = 0.3\nmethod = "l1"'), run, colours)
    assert parent_fingerprint(run) == ""


def test_channels_are_removed_to_the_budget(run: Run, colours: InMemoryDataset) -> None:
    recipe = recipe_of("[pruning]\nmacs_ratio = 0.5\nnum_batches = 1\nbatch_size = 8")
    slim = started(recipe, run, colours)
    example = torch.zeros(1, 3, 32, 32)
    ratio = count_macs(slim, example).total / count_macs(fresh_network(recipe), example).total
    assert 0.4 < ratio <= 0.5
    assert slim.training
    assert all(value.requires_grad for value in slim.parameters())


def test_a_start_is_made_once(run: Run, colours: InMemoryDataset) -> None:
    recipe = recipe_of('[pruning]\nrates = 0.3\nmethod = "l1"')
    started(recipe, run, colours)
    before = run.start.read_bytes()
    torch.manual_seed(1)
    make_start(recipe, run, colours)
    assert run.start.read_bytes() == before


def test_the_stem_gives_way_to_measured_channels(run: Run, colours: InMemoryDataset) -> None:
    text = '[inputs]\nchannels = 6\nfirst = "layer1"\ngate = true\nstatistics_images = 24'
    model = started(recipe_of(text), run, colours)
    transform = transform_of(model)
    assert transform is not None
    seen = transform(colours.batch(range(24))[0])
    assert seen.mean((0, 2, 3)).abs().max() < 1e-4
    assert (seen.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-3
    assert any(isinstance(module, FrequencyGate) for module in model.modules())


@pytest.mark.parametrize(("wanted", "taken"), [(10, 10), (100, 24)])
def test_channels_are_measured_on_as_many_images_as_there_are_and_were_asked_for(
    wanted: int, taken: int, run: Run, colours: InMemoryDataset, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    text = f'[inputs]\nchannels = 6\nfirst = "layer1"\nstatistics_images = {wanted}'
    transform = transform_of(started(recipe_of(text), run, colours))
    assert transform is not None
    (images,) = random_batches(colours, taken, 1, seed=0)
    assert torch.equal(transform.mean, BlockDCT(6).fit([images]).mean)
    assert f"measured the mean and spread of the channels on {taken} images" in caplog.text


def test_pixels_of_other_colours_are_measured_packed_and_predicted(
    run: Run, colours: InMemoryDataset, tmp_path: Path
) -> None:
    recipe = recipe_of('[inputs]\npixels = "ycbcr"\nstatistics_images = 24')
    assert parse_recipe(to_toml(recipe), source="again") == recipe
    model = started(recipe, run, colours).eval()
    transform = input_transform_of(model)
    assert isinstance(transform, YCbCrPixels)
    images = colours.batch(range(24))[0]
    assert (transform(images).mean((0, 2, 3)).abs() < 1e-4).all()
    save(model, tmp_path / "model.tailcut")
    pixels = (255 * images[0]).round().to(torch.uint8).permute(1, 2, 0)
    Image.fromarray(pixels.numpy()).save(tmp_path / "image.png")
    (found,) = predict_file(tmp_path / "model.tailcut", [tmp_path / "image.png"], device="cpu").predictions
    with torch.no_grad():
        probabilities = model(transform(images[:1])).softmax(1)[0]
    assert (found["class_number"], found["probability"]) == (
        int(probabilities.argmax()),
        pytest.approx(float(probabilities.max())),
    )


def test_pruning_goes_on_from_a_trained_file(run: Run, colours: InMemoryDataset, tmp_path: Path) -> None:
    torch.manual_seed(3)
    trained = create_model("resnet20", width=8)
    save(trained, tmp_path / "trained.tailcut")
    recipe = recipe_of(f'[start]\nfile = "{tmp_path}/trained.tailcut"\n[pruning]\nrates = 0.25\nmethod = "l2"')
    slim = started(recipe, run, colours)
    kept = {tuple(row.flatten().tolist()) for row in trained.get_parameter("layer3.0.conv2.weight")}
    assert slim.get_parameter("layer3.0.conv2.weight").shape[0] < len(kept)
    assert parent_fingerprint(run) == fingerprint(trained) != fingerprint(slim)
    assert torch.equal(parent(recipe).get_parameter("linear.bias"), trained.get_parameter("linear.bias"))


def test_a_checkpoint_is_found_under_a_data_root(run: Run, colours: InMemoryDataset, tmp_path: Path) -> None:
    trained = create_model("resnet20", width=8)
    state = {f"module.{name}": value for name, value in trained.state_dict().items()}
    (tmp_path / "weights").mkdir()
    torch.save({"state_dict": state}, tmp_path / "weights" / "net.th")
    recipe = recipe_of('[start]\nfile = "data:weights/net.th"')
    make_start(recipe, run, colours, roots=tmp_path)
    assert torch.equal(load(run.start).get_parameter("conv1.weight"), trained.get_parameter("conv1.weight"))


def test_a_run_beside_this_one_is_the_parent(run: Run, colours: InMemoryDataset) -> None:
    trained = create_model("resnet20", width=8)
    recipe = recipe_of('[start]\nfile = "run:before"\n[distillation]\nteacher = "run:before"')
    assert needed_runs(recipe) == ["before"]
    with pytest.raises(RecipeError, match=r"start.file: run:before needs the finished run .*before, .*train it first"):
        make_start(recipe, run, colours)
    (run.path.parent / "before").mkdir()
    save(trained, run.path.parent / "before" / "model.tailcut")
    make_start(recipe, run, colours)
    assert torch.equal(load(run.start).get_parameter("conv1.weight"), trained.get_parameter("conv1.weight"))
    assert load_teacher(recipe, torch.device("cpu"), beside=run) is not None
    with pytest.raises(RecipeError, match=r"distillation.teacher: run:before means a run folder beside"):
        load_teacher(recipe, torch.device("cpu"))


def test_the_parent_can_be_the_teacher(tmp_path: Path) -> None:
    trained = create_model("resnet20", width=8)
    save(trained, tmp_path / "trained.tailcut")
    text = f'[start]\nfile = "{tmp_path}/trained.tailcut"\n[distillation]\nteacher = "start"'
    teacher = load_teacher(recipe_of(text), torch.device("cpu"))
    assert teacher is not None
    x = torch.rand(2, 3, 32, 32)
    assert torch.allclose(teacher(x), trained.eval()(x))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[start]\nfile = "nowhere.tailcut"', "start.file"),
        ("[pruning]\nrates = [0.1, 0.2]", "pruning"),
        ('[inputs]\nfirst = "layer9"', "inputs.*layer9"),
        ("[inputs]\nchannels = 7", "inputs.*7"),
    ],
)
def test_what_does_not_fit_is_said_with_its_section(
    text: str, message: str, run: Run, colours: InMemoryDataset
) -> None:
    with pytest.raises(RecipeError, match=message):
        make_start(recipe_of(text), run, colours)
    assert not run.start.exists()


def test_a_start_under_no_data_root_is_missing_data(run: Run, colours: InMemoryDataset) -> None:
    with pytest.raises(DataNotFoundError, match=r"(?s)start\.file: nowhere\.th.*lies under no data root"):
        make_start(recipe_of('[start]\nfile = "data:nowhere.th"'), run, colours)
    assert not run.start.exists()


def test_a_network_of_grey_images_has_no_other_colours(run: Run, colours: InMemoryDataset) -> None:
    recipe = recipe_of('[inputs]\npixels = "ycbcr"', "model.name=lenet5", "model.arguments=")
    with pytest.raises(RecipeError, match="inputs: lenet5 does not read images of three channels"):
        make_start(recipe, run, colours)


def test_a_file_of_another_model_is_refused(run: Run, colours: InMemoryDataset, tmp_path: Path) -> None:
    save(create_model("lenet300"), tmp_path / "other.tailcut")
    with pytest.raises(RecipeError, match=r"lenet300.*resnet20"):
        make_start(recipe_of(f'[start]\nfile = "{tmp_path}/other.tailcut"'), run, colours)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[pruning]\nrates = 0.3\nmacs_ratio = 0.5", "exactly one"),
        ("[pruning]", "exactly one"),
        ('[distillation]\nteacher = "start"', "needs a \\[start\\]"),
        ('[inputs]\npixels = "ycbcr"\nchannels = 24\ngate = true', "leave out either pixels or channels, gate"),
        ('[inputs]\npixels = "rgb"', "inputs.pixels: must be 'ycbcr', got 'rgb'"),
    ],
)
def test_sections_that_contradict_themselves_are_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_of(text)


def test_pruned_regularised_trained_and_packed(make_recipe: MakeRecipe, recipe_text: str, tmp_path: Path) -> None:
    text = recipe_text.replace('name = "lenet300"\narguments = { convolutional = true }', 'name = "lenet5"')
    text = text.replace("num_kept = 4000", "keep_ratio = 0.5").replace("num_kept = 400\n", "keep_ratio = 0.2\n")
    recipe = parse_recipe(f'{text}\n[pruning]\nrates = 0.4\nmethod = "l1"\n', source="small.toml", overrides=())
    result = train(recipe, tmp_path / "run")
    packed = load(tmp_path / "run" / "model.tailcut")
    assert packed.get_submodule("conv2").out_channels == 30
    assert result.metrics["accuracy"] > 0.6


@pytest.mark.parametrize("setting", ["optimizer.ema_decay=0.9", "training.statistics_images=20"])
def test_norms_are_measured_for_the_parameters_that_are_packed(
    setting: str, colours: InMemoryDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup_data, "open_dataset", lambda *args, **settings: colours)
    recipe = recipe_of("", setting, "optimizer.lr=0.05", "data.batch_size=8", "training.epochs=3")
    train(recipe, tmp_path / "run", progress=False)
    packed = load(tmp_path / "run" / "model.tailcut")
    before = {name: value.clone() for name, value in packed.named_buffers() if "running" in name}
    assert before
    recalibrate(packed, network_inputs(packed, colours, 8, 3, recipe.training.seed), num_batches=3)
    for name, value in before.items():
        torch.testing.assert_close(packed.get_buffer(name), value, rtol=1e-4, atol=1e-5)


def test_what_a_failed_attempt_left_is_not_taken(
    colours: InMemoryDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup_data, "open_dataset", lambda *_, **__: colours)
    out, small = tmp_path / "run", ("data.batch_size=8", "training.epochs=1")
    too_few = "model.arguments={ width = 8, num_classes = 7 }"
    slip = recipe_of('[pruning]\nrates = 0.5\nmethod = "l1"', *small, too_few)
    corrected = recipe_of('[pruning]\nrates = 0.25\nmethod = "l1"', *small)
    for _ in range(2):  # the second attempt with what the first left
        with pytest.raises(ArgumentError, match="10 classes"):
            train(slip, out, devices=Devices("cpu"), resume=True)
        assert Run(out).start.is_file()
    with pytest.raises(ArgumentError, match="begin it anew with --resume"):
        train(corrected, out, devices=Devices("cpu"))
    train(corrected, out, devices=Devices("cpu"), resume=True)
    assert load(out / "model.tailcut").get_parameter("layer3.0.conv1.weight").shape[0] == 24
    assert parse_recipe(Run(out).recipe.read_text(), source="run") == corrected


TRUNCATED = """
[model]
name = "lenet5"
arguments = { bias = false, convolutional = true, conv_relu = true }
[start]
file = "zoo:lenet5-776"
[regularization]
[schedule]
num_kept = 150
spacing = "geometric"
fraction = 0.5
every = 4
[data]
name = "digits"
batch_size = 128
[optimizer]
name = "adam"
lr = 0.02
[training]
epochs = 6
round_from = 0.0
[pack]
dtype = "float16"
"""


def test_a_truncated_network_is_trained_on_and_cut_further(tmp_path: Path) -> None:
    result = train(parse_recipe(TRUNCATED, source="text"), tmp_path / "run", progress=False)
    before = {tensor.name: tensor.num_kept for tensor in truncated_tensors(load("zoo:lenet5-776"))}
    after = {tensor.name: tensor.num_kept for tensor in truncated_tensors(load(tmp_path / "run" / "model.tailcut"))}
    assert sum(before.values()) == 776
    assert after == {name: min(150, count) for name, count in before.items()}
    assert result.num_kept == sum(after.values()) == 570
    assert result.start_fingerprint == fingerprint(load("zoo:lenet5-776"))
    assert result.metrics["accuracy"] > 0.7


def test_a_network_of_channels_trains_resumes_and_evaluates_from_its_file(run: Run, colours: InMemoryDataset) -> None:
    text = '[inputs]\nchannels = 12\nfirst = "layer1"\nchroma = "full"\nstatistics_images = 24'
    model = started(recipe_of(text), run, colours)
    again = load(run.start)
    figures = [evaluate(network, colours, batch_size=8) for network in (model.eval(), again)]
    assert figures[0] == figures[1]


def test_norms_behind_a_gate_are_measured_as_it_evaluates(
    colours: InMemoryDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup_data, "open_dataset", lambda *_, **__: colours)
    text = '[inputs]\nchannels = 6\nfirst = "layer1"\ngate = true\nchroma = "full"\nstatistics_images = 24'
    recipe = recipe_of(text, "data.batch_size=8", "optimizer.ema_decay=0.5")
    train(recipe, tmp_path / "run", devices=Devices("cpu"))
    packed = load(tmp_path / "run" / "model.tailcut")
    before = {name: value.clone() for name, value in packed.named_buffers() if "running" in name}
    recalibrate(packed, network_inputs(packed, colours, 8, 3, recipe.training.seed), num_batches=3)
    for name, value in before.items():
        torch.testing.assert_close(packed.get_buffer(name), value)


def test_files_that_lie_nowhere_are_told_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"start\.file: nowhere\.th"):
        check_data_files(recipe_of('[start]\nfile = "data:nowhere.th"'), tmp_path)
    (tmp_path / "nowhere.th").touch()
    check_data_files(recipe_of('[start]\nfile = "data:nowhere.th"'), tmp_path)
    check_data_files(recipe_of('[start]\nfile = "run:before"'), tmp_path)
    check_data_files(recipe_of(""), tmp_path)


def test_ignored_layers_keep_their_channels(run: Run, colours: InMemoryDataset) -> None:
    slim = started(recipe_of('[pruning]\nrates = 0.5\nmethod = "l1"\nignore = ["layer1.0.conv1"]'), run, colours)
    assert slim.get_parameter("layer1.0.conv1.weight").shape[0] == 8
    assert slim.get_parameter("layer1.1.conv1.weight").shape[0] == 4


@pytest.mark.parametrize("wanted", [True, False])
def test_statistics_are_measured_again_where_the_recipe_says_so(
    wanted: bool, run: Run, colours: InMemoryDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def noting(model: nn.Module, loader: Any, num_batches: int) -> None:
        calls.append(num_batches)

    monkeypatch.setattr(initial_network, "recalibrate", noting)
    text = f'[pruning]\nrates = 0.5\nmethod = "l1"\nnum_batches = 2\nrecalibrate = {str(wanted).lower()}'
    started(recipe_of(text), run, colours)
    assert calls == ([2] if wanted else [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{ convolutional = true, bias = false, conv_relu = true }", ""),
        ("{ bias = true }", r"model\.arguments\.bias: is True here and False in the network of start\.file"),
        ("{ num_classes = 5 }", r"model\.arguments\.num_classes: is 5 here and 10 in the network of start\.file"),
    ],
)
def test_arguments_that_the_network_of_the_start_does_not_have_are_refused(
    arguments: str, message: str, run: Run, colours: InMemoryDataset
) -> None:
    text = TRUNCATED.replace(
        "arguments = { bias = false, convolutional = true, conv_relu = true }", f"arguments = {arguments}"
    )
    recipe = parse_recipe(text, source="text")
    if not message:
        make_start(recipe, run, colours)
        return
    with pytest.raises(RecipeError, match=message):
        make_start(recipe, run, colours)


def test_a_checkpoint_of_a_truncated_run_is_named_as_one(
    make_recipe: MakeRecipe, tmp_path: Path, run: Run, colours: InMemoryDataset
) -> None:
    train(make_recipe("training.epochs=1", "data.batch_size=600"), tmp_path / "first")
    checkpoint = Run(tmp_path / "first").last_checkpoint
    recipe = make_recipe(f"start.file={checkpoint}", "regularization={}", "schedule=")
    with pytest.raises(RecipeError, match="it is a checkpoint of a run: give the run's folder"):
        make_start(recipe, run, colours)
