from pathlib import Path
from typing import Any

import pytest

import tailcut
from tailcut.errors import RecipeError
from tailcut.training import train

RECIPE: dict[str, Any] = {
    "name": "levels",
    "model": {"name": "lenet5", "arguments": {"bias": False, "conv_relu": True}},
    "data": {"name": "digits", "batch_size": 64},
    "regularization": {"num_kept": 400},
    "optimizer": {"lr": 0.01},
    "training": {"epochs": 4},
    "pack": {"dtype": "float16", "levels": [0.25, 0.5]},
}


def accuracy(file: Path, level: int) -> float:
    images, labels = tailcut.data.open_dataset("digits", "test").batch(range(300))
    return float((tailcut.load(file, level=level)(images).argmax(1) == labels).float().mean())


def test_a_recipe_with_levels_packs_a_file_of_networks_that_work(tmp_path: Path) -> None:
    plain = {**RECIPE, "pack": {"dtype": "float16"}}
    train(plain, tmp_path / "plain")
    train(RECIPE, tmp_path / "levels")
    report = tailcut.inspect(tmp_path / "levels" / "model.tailcut")
    assert [entry.num_kept for entry in report.levels] == [400, 800, 1600]
    tailcut.save(
        tailcut.load(tmp_path / "plain" / "model.tailcut"),
        tmp_path / "cut.tailcut",
        dtype="float16",
        levels=(0.25, 0.5),
    )
    nested, cut = (accuracy(path, 1) for path in (tmp_path / "levels" / "model.tailcut", tmp_path / "cut.tailcut"))
    assert nested > cut + 0.1
    assert nested > 0.3


def test_a_training_with_levels_goes_on_to_the_same_network(tmp_path: Path) -> None:
    train(RECIPE, tmp_path / "whole")
    part = {**RECIPE, "training": {"epochs": 4}}

    class Stopped(Exception):
        """Raised after the second epoch."""

    from tailcut.training.trainer import base

    written = base.write_checkpoint
    with pytest.MonkeyPatch.context() as patch:

        def write_then_stop(*arguments: Any, **settings: Any) -> Any:
            found = written(*arguments, **settings)
            if len(list((tmp_path / "part" / "checkpoints").glob("*"))) >= 2:
                raise Stopped
            return found

        patch.setattr(base, "write_checkpoint", write_then_stop)
        with pytest.raises(Stopped):
            train(part, tmp_path / "part")
    train(part, tmp_path / "part", resume=True)
    files = [(tmp_path / name / "model.tailcut").read_bytes() for name in ("whole", "part")]
    assert files[0] == files[1]


def test_levels_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    for changed, message in (
        ({"pack": {"levels": [0.5, 0.2]}}, "levels must rise"),
        ({"regularization": None}, "pack.levels is for networks"),
    ):
        recipe = {key: value for key, value in {**RECIPE, **changed}.items() if value is not None}
        with pytest.raises(RecipeError, match=message):
            train(recipe, tmp_path / "run")
