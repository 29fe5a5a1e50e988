import pytest
import torch

from tailcut.data import InMemoryDataset, open_dataset
from tailcut.errors import RecipeError
from tailcut.structure import create_model
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.toml_files import parse_recipe
from tailcut.training.setup.build import build_schedule
from tailcut.training.setup.build_generation import GanNetworks, build_gan, check_generative
from tailcut.weights import kept_counts, truncated_tensors

RECIPE = """
name = "small"
model = { name = "dcgan_generator", arguments = { width = 2, latent_size = 6 } }
data = { name = "digits" }
optimizer = { lr = 0.0002 }
training = { epochs = 1, loss = "gan" }

[generation]
discriminator = { name = "dcgan_discriminator", arguments = { width = 2 } }
"""


def toml(counts: dict[str, int]) -> str:
    return f"{{ {', '.join(f'{name!r} = {count}' for name, count in counts.items())} }}"


def small_recipe(*overrides: str) -> Recipe:
    return parse_recipe(RECIPE, source="small.toml", overrides=overrides)


def test_the_two_networks_of_a_recipe() -> None:
    networks = build_gan(small_recipe())
    assert sorted(dict(networks.named_children())) == ["discriminator", "generator"]
    codes = torch.randn(3, 6)
    networks.eval()
    assert torch.equal(networks(codes), networks.discriminator(networks.generator(codes)))
    assert kept_counts(networks) == {}


def test_names_and_patterns_are_for_one_network_or_for_both() -> None:
    networks = build_gan(
        small_recipe(
            "regularization.keep_ratio=0.5",
            "regularization.exclude=['generator.main.12.*', 'main.0.weight']",
            "regularization.overrides={ 'discriminator.main.*' = { num_kept = 7 } }",
        )
    )
    kept = kept_counts(networks)
    assert {name for name in kept if name.startswith("generator")} == {
        f"generator.main.{number}.weight" for number in (3, 6, 9)
    }
    assert kept["generator.main.3.weight"] == 16 * 8 * 16 // 2
    assert {name: count for name, count in kept.items() if name.startswith("discriminator")} == {
        f"discriminator.main.{number}.weight": 7 for number in (2, 5, 8, 11)
    }


@pytest.mark.parametrize(
    "override",
    [
        "regularization.num_kept={ 'generator.main.3.weight' = 5 }",
        "regularization={ num_kept = 5, include = ['generator.main.3.*'] }",
    ],
)
def test_a_network_of_which_nothing_is_named_stays_dense(override: str) -> None:
    assert kept_counts(build_gan(small_recipe(override))) == {"generator.main.3.weight": 5}


def test_coefficients_are_drawn_by_the_names_of_each_network() -> None:
    counts = {f"generator.main.{number}.weight": 3 for number in (0, 3, 6, 9, 12)}
    drawn = build_gan(small_recipe("regularization={ num_kept = 40 }", f"regularization.num_drawn={toml(counts)}"))
    for tensor in truncated_tensors(drawn.generator):
        assert int(tensor.vector.count_nonzero()) == 3
    for tensor in truncated_tensors(drawn.discriminator):  # of which nothing is named
        assert int(tensor.vector.count_nonzero()) == tensor.num_kept

    counts |= {f"discriminator.main.{number}.weight": 5 for number in (0, 2, 5, 8, 11)}
    drawn = build_gan(small_recipe("regularization={ num_kept = 40 }", f"regularization.num_drawn={toml(counts)}"))
    for network, number in ((drawn.generator, 3), (drawn.discriminator, 5)):
        assert {int(tensor.vector.count_nonzero()) for tensor in truncated_tensors(network)} == {number}


def test_a_schedule_cuts_both() -> None:
    recipe = small_recipe("regularization.num_kept=20", "schedule={ num_kept = 4, fraction = 1.0 }")
    networks = build_gan(recipe)
    schedule = build_schedule(recipe, networks)
    assert schedule is not None
    schedule.finish()
    assert set(kept_counts(networks).values()) == {4}
    assert len(kept_counts(networks)) == 10


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model={ name = 'vae' }", "model.name: vae makes no images of codes; dcgan_generator does"),
        ("model.arguments.out_channels=3", r"reads images .* like \(1, 1, 64, 64\), the generator makes \(1, 3, 64"),
        ("generation.discriminator.name=lenet", "unknown model 'lenet'"),
        ("regularization.num_kept={ 'generator.main.99.weight' = 5 }", "main.99.weight"),
    ],
)
def test_networks_that_do_not_fit_are_reported(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_gan(small_recipe(override))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("start.file=zoo:lenet5-ref", "start: has no meaning for training.loss 'gan'"),
        ("optimizer.clip_norm=1.0", "optimizer.clip_norm: has no meaning"),
        ("pruning.rates=0.5", "pruning: has no meaning"),
        ("inputs={}", "inputs: has no meaning"),
    ],
)
def test_keys_without_effect_are_refused(override: str, message: str) -> None:
    recipe = small_recipe(override)
    with pytest.raises(RecipeError, match=message):
        check_generative(recipe, build_gan(recipe), open_dataset("digits", "train"))


def test_the_loss_must_be_that_of_the_network() -> None:
    digits = open_dataset("digits", "train")
    generator = create_model("dcgan_generator", width=2)
    check_generative(small_recipe(), GanNetworks(generator, generator), digits)
    other = small_recipe("training.loss=cross_entropy", "generation=")
    with pytest.raises(RecipeError, match=r"dcgan_generator needs training.loss 'gan', got 'cross_entropy'"):
        check_generative(other, generator, digits)
    check_generative(other, create_model("lenet300"), digits)


def test_images_must_be_of_the_networks_shape() -> None:
    def blank(*shape: int) -> InMemoryDataset:
        images = torch.zeros(2, *shape, dtype=torch.uint8)
        return InMemoryDataset("blank", "train", images, torch.zeros(2).long(), ["a"])

    recipe = small_recipe("training.loss=vae", "generation=", "model={ name = 'vae' }")
    model = create_model("vae", hidden=4)
    check_generative(recipe, model, blank(1, 28, 28))
    with pytest.raises(RecipeError, match="of 1 channel; blank has 3"):
        check_generative(recipe, model, blank(3, 28, 28))
    with pytest.raises(RecipeError, match=r"vae reads images \(1, 1, 28, 28\), got \(1, 32, 32\)"):
        check_generative(recipe, model, blank(1, 32, 32))
