import pytest

from tailcut.errors import RecipeError
from tailcut.training.recipe.stages import last_stage, stages_of
from tailcut.training.recipe.toml_files import differences, parse_recipe, to_toml
from tailcut.training.setup.initial_network import sources

RECIPE = """
name = "staged"
model = { name = "lenet300" }
data = { name = "mnist", batch_size = 64, coarse = { fraction = 0.5 } }
regularization = {}
optimizer = { lr = 0.01, lr_schedule = { name = "cosine" } }
training = { epochs = 2, seed = 5 }
paper = { source = "Table 1" }

[[stage]]
name = "wide"
without = ["data.coarse"]

[stage.regularization]
num_kept = 400

[stage.optimizer]
lr_schedule = { warmup = 0.1 }

[[stage]]
name = "cut"
schedule = { num_kept = 100, fraction = 0.5 }
training = { epochs = 3 }
"""


def test_a_stage_is_the_recipe_with_other_values() -> None:
    recipe = parse_recipe(RECIPE, source="staged.toml")
    stages = stages_of(recipe)
    assert list(stages) == ["wide", "cut"]
    wide, cut, last = *stages.values(), last_stage(recipe)
    assert [part.name for part in (wide, cut, last)] == ["staged-wide", "staged-cut", "staged"]
    assert [part.paper is None for part in (wide, cut, last)] == [True, True, False]
    assert [part.start and part.start.file for part in (wide, cut, last)] == [None, "stage:wide", "stage:cut"]
    assert [part.training.epochs for part in (wide, cut, last)] == [2, 3, 2]
    assert {part.training.seed for part in (wide, cut, last)} == {5}
    assert [part.data.coarse is None for part in (wide, cut, last)] == [True, False, False]
    assert wide.optimizer.lr_schedule.model_dump() == {**last.optimizer.lr_schedule.model_dump(), "warmup": 0.1}
    assert wide.regularization is not None
    assert wide.regularization.num_kept == 400
    assert wide.schedule is last.schedule is None
    assert not any(part.stage for part in (wide, cut, last))


def test_few_bytes_are_of_the_last_training_alone() -> None:
    few = parse_recipe(f"{RECIPE}[pack]\nmax_bytes = 900\nlevels = [0.5]", source="staged.toml")
    assert [part.pack.max_bytes for part in (*stages_of(few).values(), last_stage(few))] == [None, None, 900]
    assert {part.pack.levels for part in stages_of(few).values()} == {(0.5,)}


def test_the_first_stage_starts_as_the_recipe_says() -> None:
    recipe = parse_recipe(f"start = {{ file = 'run:other' }}\n{RECIPE}", source="staged.toml")
    assert [part.start and part.start.file for part in stages_of(recipe).values()] == ["run:other", "stage:wide"]
    assert sources(recipe) == ["run:other"]
    assert sources(parse_recipe(RECIPE, source="staged.toml")) == []


def test_a_recipe_without_stages_is_its_last() -> None:
    recipe = parse_recipe(RECIPE, source="staged.toml", overrides=["stage="])
    assert stages_of(recipe) == {}
    assert last_stage(recipe) is recipe


def test_what_is_written_reads_back() -> None:
    recipe = parse_recipe(RECIPE, source="staged.toml")
    assert parse_recipe(to_toml(recipe), source="again.toml") == recipe
    assert "[[stage]]" in to_toml(recipe)


def test_an_override_holds_for_all_stages() -> None:
    recipe = parse_recipe(RECIPE, source="staged.toml", overrides=["training.epochs=7", "name=other"])
    assert [part.training.epochs for part in stages_of(recipe).values()] == [7, 7]
    assert list(stages_of(recipe)) == ["wide", "cut"]
    removed = parse_recipe(RECIPE, source="staged.toml", overrides=["schedule="])
    assert [part.schedule for part in stages_of(removed).values()] == [None, None]


def test_differences_name_the_stage() -> None:
    one = parse_recipe(RECIPE, source="staged.toml")
    other = parse_recipe(RECIPE.replace("num_kept = 400", "num_kept = 300"), source="staged.toml")
    assert differences(one, other) == ["stage.wide.regularization.num_kept: 400 and 300"]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("num_kept = 400", "kept = 400", r"staged.toml: stage wide: regularization.kept: is no key of a recipe"),
        ("epochs = 3 }", "epochs = 'a' }", r"stage cut: training.epochs: must be an integer, got 'a'"),
        ('"data.coarse"', '"data.coarser"', r"stage wide: without: the recipe has no key 'data.coarser'"),
        ("epochs = 3 }", "precision = 'bf16' }", r"stage cut: training.precision: must be that of the recipe, fp32"),
        ('name = "cut"', 'name = "a/b"', r"stage.1.name: must be letters A to Z, digits, - and _, .*, got 'a/b'$"),
        ('name = "cut"', 'name = ""', r"stage.1.name: must be letters A to Z, .*, got ''$"),
        ('name = "cut"', 'name = "wide"', r"stage: 2 of them are named 'wide'; each has its own run folder"),
        ('[[stage]]\nname = "cut"', "[stage.cut]", r"stage wide: cut: is no key of a recipe"),
        ('name = "cut"', 'name = "cut"\nstage = []', r"stage cut: stage: is no key of a stage"),
        ('name = "cut"', 'name = "cut"\npaper = {}', r"stage cut: paper: is no key of a stage"),
        ("epochs = 3 }", "epochs = 3 }\ntraning = {}", r"stage cut: traning: .*did you mean 'training'"),
        ("epochs = 3 }", "epochs = 3 }\ndetection = {}", r"stage cut: detection: a gan or a detector can be no stage"),
        ('name = "cut"', 'name = "../cut"', r"stage.1.name"),
        ('name = "cut"', "", r"stage.1.name: is missing"),
        ('name = "cut"', 'name = "cut"\nstart = { file = "a" }', r"stage cut: start: is no key of a stage"),
        ("fraction = 0.5 }\ntraining = { epochs = 3", "fraction = 2 }\ntraining = { epochs = 3", r"schedule.fraction"),
    ],
)
def test_what_is_wrong_is_told_with_its_stage(before: str, after: str, message: str) -> None:
    assert before in RECIPE
    with pytest.raises(RecipeError, match=message):
        parse_recipe(RECIPE.replace(before, after), source="staged.toml")


@pytest.mark.parametrize("override", ["stage.cut.training.epochs=3", "stage=3", "stage.name=wide"])
def test_a_single_stage_cannot_be_overridden(override: str) -> None:
    with pytest.raises(RecipeError, match=r"stage: each stage is a \[\[stage\]\] table with a name; --set changes"):
        parse_recipe(RECIPE, source="staged.toml", overrides=[override])


def test_a_gan_has_no_stages() -> None:
    text = RECIPE.replace("epochs = 2,", "epochs = 2, loss = 'gan',")
    with pytest.raises(RecipeError, match="a gan and a detector cannot go on from another network"):
        parse_recipe(f"generation = {{ discriminator = {{ name = 'dcgan_discriminator' }} }}\n{text}", source="a.toml")


@pytest.mark.parametrize(
    ("inputs", "without", "message"),
    [
        ("inputs = { channels = 24 }", "[]", "inputs: the network reads them from stage wide on, and stage cut would"),
        ("inputs = { channels = 24 }", "['inputs']", "inputs: .* from stage cut on, and the recipe itself would"),
    ],
)
def test_an_input_that_would_be_replaced_twice_is_told_before_the_first_stage(
    inputs: str, without: str, message: str
) -> None:
    text = RECIPE.replace("regularization = {}", f"regularization = {{}}\n{inputs}")
    text = text.replace('without = ["data.coarse"]', f"without = {without}")
    with pytest.raises(RecipeError, match=message):
        parse_recipe(text, source="staged.toml")


def test_the_first_stage_alone_may_replace_the_input() -> None:
    text = RECIPE.replace("[stage.regularization]", "[stage.inputs]\nchannels = 24\n\n[stage.regularization]")
    stages = stages_of(parse_recipe(text, source="staged.toml"))
    assert [stage.inputs is None for stage in stages.values()] == [False, True]
