import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tailcut.data import open_dataset, split_off
from tailcut.errors import DataNotFoundError, RecipeError
from tailcut.execution import FusedNetwork
from tailcut.format import load, save
from tailcut.structure import create_model, image_shorter_side, image_size
from tailcut.training.recipe.schema import LrScheduleSection, OptimizerSection, Recipe
from tailcut.training.setup.build import (
    build_model,
    build_optimizer,
    build_schedule,
    check_data,
    check_settings,
    hold_out,
    load_teacher,
    lr_factor,
    note_image_size,
    set_lr,
    set_precision,
    warn_of_other_optimizers,
)
from tailcut.weights import kept_counts, norm_counts, to_dense, truncated_tensors

MakeRecipe = Callable[..., Recipe]


def test_the_model_is_regularised_as_the_recipe_says(make_recipe: MakeRecipe) -> None:
    overrides = "regularization.overrides={ 'fc1.weight' = { num_kept = 7, order_weights = [1, 1, 3, 3] } }"
    model = build_model(make_recipe(overrides, "regularization.exclude=['fc3.*']"))
    assert kept_counts(model) == {"fc1.weight": 7, "fc2.weight": 4000}
    assert truncated_tensors(model)[0].truncation.order_weights == (1, 1, 3, 3)


def test_without_a_start_everything_is_kept(make_recipe: MakeRecipe) -> None:
    model = build_model(make_recipe("regularization={}"))
    assert kept_counts(model) == {"fc1.weight": 235200, "fc2.weight": 30000, "fc3.weight": 1000}


def test_each_initialization_has_its_variance(make_recipe: MakeRecipe) -> None:
    variances = {}
    for name in ("model", "rescaled", "he", "lsuv"):
        torch.manual_seed(0)
        model = to_dense(build_model(make_recipe(f"regularization.initialization={name}")))
        variances[name] = model.get_parameter("fc2.weight").var().item()
    dense = 1 / (3 * 300)  # of torch's own initial weights: uniform within 1 / sqrt(inputs)
    assert variances["model"] == pytest.approx(dense * 4000 / 30000, rel=0.1)
    assert variances["rescaled"] == pytest.approx(dense, rel=0.1)
    assert variances["he"] == pytest.approx(2 / 300, rel=0.1)
    assert variances["lsuv"] == variances["he"]  # to be measured yet


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.name=lenet6", "model: unknown model 'lenet6'"),
        ("model.arguments.depth=3", "model: .*no argument 'depth'"),
        ("regularization.include=['conv9.*']", "regularization: include: 'conv9"),
        ("regularization.axes=[7]", "regularization: fc1.weight"),
    ],
)
def test_what_does_not_fit_names_its_section(override: str, message: str, make_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match=message):
        build_model(make_recipe(override))


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ({"name": "adam", "betas": (0.9, 0.99)}, torch.optim.Adam, {"betas": (0.9, 0.99)}),
        ({"name": "adamw", "weight_decay": 0.1}, torch.optim.AdamW, {"weight_decay": 0.1}),
        ({"name": "sgd", "momentum": 0.5}, torch.optim.SGD, {"momentum": 0.5}),
    ],
)
def test_optimisers_get_their_values(values: dict[str, Any], kind: type, expected: dict[str, Any]) -> None:
    optimizer = build_optimizer(OptimizerSection(lr=0.3, **values), create_model("lenet300"))
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert {key: group[key] for key in ("lr", *expected)} == {"lr": 0.3, **expected}


@pytest.mark.parametrize(("every", "cuts"), [("2", 20), ("epoch", 2)])
def test_the_target_is_reached_at_its_fraction(every: str, cuts: int, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(f"schedule.every={every}")  # 4 epochs of 20 steps, half of the run
    model = build_model(recipe)
    schedule = build_schedule(recipe, model, build_optimizer(recipe.optimizer, model), steps_per_epoch=20)
    assert schedule is not None
    for _ in range(cuts - 1):
        schedule.step()
    assert not schedule.finished
    schedule.step()
    assert schedule.finished


def test_a_target_above_the_start_names_its_section(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("schedule.num_kept={ 'fc1.weight' = 5000 }")
    with pytest.raises(RecipeError, match=r"schedule: fc1\.weight"):
        build_schedule(recipe, build_model(recipe))


def test_a_constant_rate_is_constant() -> None:
    assert {lr_factor(LrScheduleSection(), part / 10) for part in range(11)} == {1.0}


def test_a_cosine_falls_from_one_to_zero() -> None:
    section = LrScheduleSection(name="cosine", warmup=0.1)
    assert lr_factor(section, 0.0) == 0
    assert lr_factor(section, 0.05) == pytest.approx(0.5)
    assert lr_factor(section, 0.1) == 1
    assert lr_factor(section, 0.55) == pytest.approx(0.5)
    assert lr_factor(section, 1.0) == pytest.approx(0)
    assert lr_factor(LrScheduleSection(name="cosine"), 0.25) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_one_cycle_agrees_with_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=0.9)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=101, pct_start=21 / 101, final_div_factor=1e12, cycle_momentum=False
    )
    section = LrScheduleSection(name="one_cycle", warmup=0.2)
    for step in range(100):
        assert lr_factor(section, step / 100) == pytest.approx(cycle.get_last_lr()[0], abs=1e-6)
        optimizer.step()
        cycle.step()


def test_milestones_multiply() -> None:
    section = LrScheduleSection(name="multistep", milestones=(0.5, 0.75), factor=0.1)
    assert [lr_factor(section, part) for part in (0, 0.49, 0.5, 0.8)] == pytest.approx([1, 1, 0.1, 0.01])


def test_batches_must_fit_the_data_and_the_processes(make_recipe: MakeRecipe) -> None:
    train = open_dataset("digits", "train")
    assert check_data(make_recipe(), train, 1) == len(train) // 64
    with pytest.raises(RecipeError, match=r"data.batch_size: must be at most 1442"):
        check_data(make_recipe("data.batch_size=2000"), train, 1)
    with pytest.raises(RecipeError, match=r"data.batch_size: must be a multiple of the 3 processes"):
        check_data(make_recipe(), train, 3)
    with pytest.raises(RecipeError, match=r"training.loss: dice_bce is for masks"):
        check_data(make_recipe("training.loss=dice_bce"), train, 1)


def test_a_shift_leaves_a_pixel(make_recipe: MakeRecipe) -> None:
    train = open_dataset("digits", "train")
    assert check_data(make_recipe("data.augmentation.shift=27"), train, 1)
    with pytest.raises(RecipeError, match=r"^data\.augmentation\.shift: must be less than 28, .* got 28$"):
        check_data(make_recipe("data.augmentation.shift=28"), train, 1)


def test_a_square_to_hide_is_within_the_image(make_recipe: MakeRecipe) -> None:
    train = open_dataset("digits", "train")
    assert check_data(make_recipe("data.augmentation.cutout=28"), train, 1)
    with pytest.raises(RecipeError, match=r"^data\.augmentation\.cutout: must be at most 28, .* got 29$"):
        check_data(make_recipe("data.augmentation.cutout=29"), train, 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lr_schedule.name=constant"], r"optimizer\.lr_schedule\.warmup: has no meaning for .* 'constant'"),
        (
            ["optimizer.lr_schedule={ name = 'multistep' }"],
            r"optimizer\.lr_schedule\.milestones: 'multistep' needs at least one, got none",
        ),
        (
            ["optimizer.lr_schedule={ name = 'multistep', milestones = [0.5], warmup = 0.1 }"],
            r"optimizer\.lr_schedule\.warmup: has no meaning for optimizer\.lr_schedule\.name 'multistep'",
        ),
        (
            ["optimizer.lr_schedule={ name = 'cosine', milestones = [0.5] }"],
            r"optimizer\.lr_schedule\.milestones: has no meaning for optimizer\.lr_schedule\.name 'cosine'",
        ),
        (["optimizer.lr_schedule.factor=0.5"], r"optimizer\.lr_schedule\.factor: has no meaning for .* 'one_cycle'"),
        (["data.test_split=train"], r"data\.test_split: 'train' is data\.train_split, .* or no data\.holdout"),
        (["paper={ source = 'a', metrics = { acc = 0.5 } }"], r"paper\.metrics\.acc: .*known are accuracy, "),
        (["paper={ source = 'a', metrics = { fid = 9 } }"], r"paper\.metrics\.fid: .*known are accuracy, "),
        (["inputs.gate_strength=0.5"], r"inputs\.gate_strength: has no meaning for inputs without a gate"),
        (["inputs.gate_temperature=2.0"], r"inputs\.gate_temperature: has no meaning for inputs without a gate"),
        (
            ["inputs={ statistics_images = 0, statistics = 'images' }"],
            r"inputs\.statistics: has no meaning for inputs\.statistics_images 0",
        ),
        (["regularization.min_kept=9"], r"regularization\.min_kept: has no meaning for counts without a keep_ratio"),
        (["start.file=a.tailcut"], r"regularization\.initialization: 'he' would replace the numbers of \[start\]"),
        (
            ["start.file=a.tailcut", "regularization.initialization=rescaled"],
            r"regularization\.initialization: 'rescaled' would make the numbers of \[start\] larger",
        ),
        (
            ["start.file=a.tailcut", "regularization={ num_kept = 9, norm_std = 0.5 }"],
            r"regularization\.norm_std: noise would be added to the numbers of \[start\]",
        ),
    ],
)
def test_settings_without_effect_are_refused(overrides: list[str], message: str, make_recipe: MakeRecipe) -> None:
    check_settings(make_recipe())
    recipe = make_recipe(*overrides)  # that of an older run can still be read
    with pytest.raises(RecipeError, match=f"^{message}"):
        check_settings(recipe)


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer={ lr = 0.1, lr_schedule = { name = 'multistep', milestones = [0.5], factor = 1 } }"],
        ["optimizer.lr_schedule.name=cosine", "paper={ source = 'a', metrics = { top5_accuracy = 0.5 } }"],
        ["data.test_split=train", "data.holdout=0"],
        ["inputs={ gate = true, gate_strength = 0.5, statistics = 'images' }"],
        ["regularization={ keep_ratio = 0.5, min_kept = 9 }", "start.file=a.tailcut"],
        ["regularization={ num_kept = 9, min_kept = 9, overrides = { fc1 = { keep_ratio = 0.5 } } }"],
    ],
)
def test_settings_with_an_effect_are_taken(overrides: list[str], make_recipe: MakeRecipe) -> None:
    check_settings(make_recipe(*overrides))


@pytest.mark.parametrize(
    ("overrides", "unused"),
    [
        ([], []),
        (["optimizer.name=adamw"], []),
        (["optimizer.name=sgd", "optimizer.betas="], []),
        (["optimizer={ name = 'sgd', lr = 0.1, momentum = 0.8, betas = [0.9, 0.999] }"], []),  # as `recipe.toml` has it
        (["optimizer.name=sgd"], ["optimizer.betas has no effect: optimizer.name is sgd"]),
        (["optimizer.momentum=0.8"], ["optimizer.momentum has no effect: optimizer.name is adam"]),
    ],
)
def test_settings_of_another_optimiser_are_named(
    overrides: list[str], unused: list[str], make_recipe: MakeRecipe, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_other_optimizers(make_recipe(*overrides).optimizer)
    assert [record.getMessage() for record in caplog.records] == unused


def test_images_are_held_out_as_the_recipe_says(make_recipe: MakeRecipe) -> None:
    digits = open_dataset("digits", "train")
    train, held_out = hold_out(make_recipe(), digits)
    assert held_out is not None
    assert (len(train), len(held_out), held_out.split) == (1242, 200, "train[1242:1442]")
    assert hold_out(make_recipe("data.holdout=0"), digits) == (digits, None)
    with pytest.raises(RecipeError, match=r"data\.holdout: .* must be 1 to 1441 for digits, .*, got 1442"):
        hold_out(make_recipe("data.holdout=1442"), digits)


def test_the_forward_rounds_to_the_codec(make_recipe: MakeRecipe) -> None:
    model = build_model(make_recipe())
    set_precision(model, "float16")
    tensor = truncated_tensors(model)[0]
    assert torch.equal(tensor.coefficients(), tensor.vector.half().float())


def test_a_teacher_is_dense_frozen_and_from_a_file_or_a_run(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    model = create_model("lenet300")
    (tmp_path / "run").mkdir()
    save(model, tmp_path / "run" / "model.tailcut")
    inputs = torch.rand(2, 1, 28, 28)
    for place in (tmp_path / "run", tmp_path / "run" / "model.tailcut"):
        teacher = load_teacher(make_recipe(f"distillation.teacher={place}"), torch.device("cpu"))
        assert teacher is not None
        assert not teacher.training
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        torch.testing.assert_close(teacher(inputs), model(inputs))


@pytest.mark.parametrize(("precision", "is_fused"), [("fp32", True), ("bf16", False)])
def test_a_truncated_teacher_is_fused_in_float32(precision: str, is_fused: bool, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("distillation.teacher=zoo:lenet5-776", f"training.precision={precision}")
    teacher = load_teacher(recipe, torch.device("cpu"))
    assert isinstance(teacher, FusedNetwork) == is_fused
    assert teacher is not None
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    inputs = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(teacher(inputs), to_dense(load("zoo:lenet5-776"))(inputs))


@pytest.mark.parametrize(("num_kept", "counts"), [(3, {3}), (0, set())])
def test_batch_norm_may_have_fewer_numbers(
    num_kept: int, counts: set[int], make_recipe: MakeRecipe, caplog: pytest.LogCaptureFixture
) -> None:
    changes = ('model={name="resnet20"}', "schedule=", f"norms.num_kept={num_kept}")
    model = build_model(make_recipe("regularization.num_kept=20", *changes))
    assert set(norm_counts(model).values()) == counts
    again = build_model(make_recipe("regularization={}", *changes), model)  # a stage after it
    assert again is model
    assert set(norm_counts(model).values()) == counts
    if counts:
        fewer = make_recipe("regularization={}", *changes[:2], "norms.num_kept=2")
        with pytest.raises(RecipeError, match=r"^norms\.num_kept: bn1\.\w+ of \[start\] keeps 3, and 2 are asked for"):
            build_model(fewer, model)
        build_model(make_recipe("regularization={}", *changes[:2], "norms.num_kept=5"), model)
        assert "norms.num_kept 5 has no effect: the network of [start] keeps at most 3" in caplog.text


def test_a_truncated_start_may_get_other_counts_of_weights_and_keeps_its_norms(make_recipe: MakeRecipe) -> None:
    changes = ('model={name="resnet20"}', "schedule=", "norms.num_kept=3")
    model = build_model(make_recipe("regularization.num_kept=20", *changes))
    before = {tensor.name: tensor.vector.detach().clone() for tensor in truncated_tensors(model)}
    again = build_model(make_recipe("regularization={ num_kept = 10 }", *changes), model)
    assert set(norm_counts(again).values()) == {3}
    for tensor in truncated_tensors(again):
        count = min(tensor.num_kept, len(before[tensor.name]))
        torch.testing.assert_close(tensor.vector[:count], before[tensor.name][:count], atol=1e-5, rtol=1e-5)


def test_a_ratio_of_the_schedule_is_of_the_weights_alone(make_recipe: MakeRecipe) -> None:
    changes = ('model={name="resnet20"}', "norms.num_kept=4", "regularization={keep_ratio=0.5}")
    recipe = make_recipe(*changes, "schedule={keep_ratio=0.1, min_kept=70, fraction=0.5}")
    model = build_model(recipe)
    schedule = build_schedule(recipe, model)
    assert schedule is not None
    norms = norm_counts(model)
    assert {schedule.targets[name] for name in norms} == {4}  # as [norms] says, of 16, 32 and 64 channels
    assert schedule.targets["layer3.2.conv2.weight"] == round(0.1 * 64 * 64 * 9)
    assert schedule.targets["conv1.weight"] == 70  # more than a tenth
    recipe = make_recipe(*changes, "schedule={keep_ratio=0.6, fraction=0.5}")
    with pytest.raises(RecipeError, match=r"conv1\.weight keeps 216 coefficients, fewer than the target 259"):
        build_schedule(recipe, model)
    number = make_recipe(*changes, "schedule={num_kept=2, fraction=0.5}")
    assert set(build_schedule(number, model).targets.values()) == {2}  # type: ignore[union-attr]


def test_norms_that_are_not_there_are_refused(make_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match="norms: expected batch norm with gains or shifts"):
        build_model(make_recipe("norms.num_kept=3"))


def test_a_missing_teacher_names_its_key(make_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match=r"distillation.teacher: .*nowhere"):
        load_teacher(make_recipe("distillation.teacher=nowhere"), torch.device("cpu"))
    assert load_teacher(make_recipe(), torch.device("cpu")) is None


def test_a_checkpoint_of_another_model_teaches(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    model, inputs = create_model("lenet5", conv_relu=True).eval(), torch.rand(2, 1, 28, 28)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "trained.pth")
    named = "distillation.model={name='lenet5', arguments={conv_relu=true}}"
    for source in (f"{tmp_path}/trained.pth", "data:trained.pth"):
        recipe = make_recipe(f"distillation.teacher={source}", named)
        teacher = load_teacher(recipe, torch.device("cpu"), roots=[tmp_path])
        assert teacher is not None
        torch.testing.assert_close(teacher(inputs), model(inputs))


def test_mistakes_about_a_teachers_model_name_its_key(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    torch.save(create_model("lenet5").state_dict(), tmp_path / "trained.pth")
    trained, device = f"distillation.teacher={tmp_path}/trained.pth", torch.device("cpu")
    zoo = "distillation.teacher=zoo:lenet5-776"
    for changes, message in (
        ([trained], r"is no \.tailcut file: name the model of its weights as distillation\.model"),
        ([trained, "distillation.model.name=nothing"], "nothing"),
        ([trained, "distillation.model.name=lenet300"], "lenet300|fc"),
        ([trained, "distillation.model={name='lenet5', arguments={size=3}}"], "size"),
        ([zoo, "distillation.model.name=lenet5"], r"names its model itself: leave out distillation\.model"),
    ):
        with pytest.raises(RecipeError, match=rf"distillation\.teacher: .*({message})"):
            load_teacher(make_recipe(*changes), device)
    with pytest.raises(DataNotFoundError, match=r"distillation\.teacher: .*trained\.pth"):
        load_teacher(make_recipe("distillation.teacher=data:trained.pth"), device, roots=[tmp_path / "nowhere"])
    with pytest.raises(RecipeError, match=r"distillation\.model: the teacher 'start' is of the recipe's own model"):
        make_recipe("start.file=zoo:lenet300-ref", "distillation.teacher=start", "distillation.model.name=lenet300")


def test_a_classifier_is_told_a_size_that_is_not_its_familys(make_recipe: MakeRecipe) -> None:
    recipe, model = make_recipe(), create_model("lenet5")
    note_image_size(recipe, model, open_dataset("digits@14", "train"))
    assert image_size(model) == (14, 14)
    note_image_size(recipe, model, open_dataset("digits", "train"))
    assert image_size(model) is None
    note_image_size(recipe, model, open_dataset("digits@32/28", "train"))
    assert (image_size(model), image_shorter_side(model)) == ((28, 28), 32)


@pytest.mark.parametrize(("num_images", "told"), [(64 * 12, True), (64 * 13, False)])
def test_few_steps_are_reported(
    num_images: int, told: bool, make_recipe: MakeRecipe, caplog: pytest.LogCaptureFixture
) -> None:
    digits = open_dataset("digits", "train")
    train = split_off(digits, len(digits) - num_images)[0]
    assert check_data(make_recipe(), train, 1) == num_images // 64
    assert ("4 epochs of 12 steps are 48 steps in all" in caplog.text) is told
    caplog.clear()
    check_data(make_recipe("start.file=zoo:a"), train, 1)
    assert caplog.text == ""


def test_a_minimum_of_coefficients(make_recipe: MakeRecipe) -> None:
    """In the section, in an override and in the schedule, which leaves what is below it."""
    recipe = make_recipe(
        "regularization={ keep_ratio = 0.01, min_kept = 31, overrides = { 'fc2.weight' = { min_kept = 5000 } } }",
        "schedule={ keep_ratio = 0.001, min_kept = 40, fraction = 1.0 }",
    )
    model = build_model(recipe)
    assert kept_counts(model) == {"fc1.weight": 2352, "fc2.weight": 5000, "fc3.weight": 31}
    schedule = build_schedule(recipe, model)
    assert schedule is not None
    assert schedule.finish() == {"fc1.weight": 235, "fc2.weight": 40, "fc3.weight": 31}


def test_cuts_of_epochs_end_before_the_last_step(make_recipe: MakeRecipe, caplog: pytest.LogCaptureFixture) -> None:
    for fraction, cuts in ((0.95, 3), (0.75, 3), (0.65, 3), (0.5, 2), (0.1, 1)):
        recipe = make_recipe("schedule.every=epoch", f"schedule.fraction={fraction}")  # 4 epochs
        model = build_model(recipe)
        schedule = build_schedule(recipe, model, build_optimizer(recipe.optimizer, model), steps_per_epoch=20)
        assert schedule is not None
        for _ in range(cuts):
            assert not schedule.finished
            schedule.step()
        assert schedule.finished
    assert "after the last of" not in caplog.text


@pytest.mark.parametrize(("every", "epochs"), [("100", 4), ("epoch", 1)])
def test_cuts_after_the_last_step_are_told(
    every: str, epochs: int, make_recipe: MakeRecipe, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make_recipe(f"schedule.every={every}", f"training.epochs={epochs}")
    model = build_model(recipe)
    build_schedule(recipe, model, build_optimizer(recipe.optimizer, model), steps_per_epoch=20)
    assert f"the cuts end after the last of {20 * epochs} steps" in caplog.text
    assert "a smaller schedule.every" in caplog.text


def test_groups_keep_their_relative_learning_rate() -> None:
    one, two = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    groups: list[dict[str, Any]] = [{"params": [one]}, {"params": [two], "relative_lr": 0.25}]
    optimizer = torch.optim.Adam(groups)
    set_lr(optimizer, OptimizerSection(name="adam", lr=0.4), 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.4, 0.1])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["data.coarse.fraction=0.8"],
            "data.coarse.fraction 0.8 of 4 epochs are all of them: no epoch",
        ),
        (["data.coarse.fraction=0.75"], ""),
        (
            ["training.round_from=0.8"],
            "training.round_from 0.8 of 4 epochs leaves none: no step",
        ),
        (["training.round_from=0.75"], ""),
    ],
)
def test_parts_of_a_run_without_an_epoch_are_told(
    overrides: list[str], told: str, make_recipe: MakeRecipe, caplog: pytest.LogCaptureFixture
) -> None:
    check_data(make_recipe(*overrides), open_dataset("digits", "train"), 1)
    found = [record.message for record in caplog.records if "of 4 epochs " in record.message]
    assert [message.startswith(told) for message in found] == ([True] if told else [])
