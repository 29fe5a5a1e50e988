import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from tailcut.errors import ArgumentError, ChecksumError, DataError, LimitError, first_line
from tailcut.format import resolve, save
from tailcut.inputs import BlockDCT, replace_stem
from tailcut.reports.html.summary import summary_section
from tailcut.reports.networks import (
    ReportedNetwork,
    edit_names,
    example_input,
    reported_network,
    reported_networks,
)
from tailcut.runs import Run
from tailcut.structure import create_model, set_image_size
from tailcut.weights import kept_counts, regularize


def test_a_run_tells_everything(run_folder: Path, networks: list[ReportedNetwork]) -> None:
    network = networks[0]
    assert network.name == run_folder.name
    assert network.result == Run(run_folder).read_result()
    assert network.recipe["name"] == "tiny <b>run</b> & more"
    assert network.recipe_section("data")["name"] == "digits"
    assert network.recipe_section("pruning") == network.recipe_section("name") == {}
    assert [line["epoch"] for line in network.lines] == [1, 2, 3]
    assert network.stored is not None
    assert network.stored.file_bytes == (run_folder / "model.tailcut").stat().st_size
    assert network.model is not None
    assert kept_counts(network.model) == {"fc1.weight": 200, "fc2.weight": 200, "fc3.weight": 200}
    assert network.missing == {}


def test_the_zoo_tells_figures_but_no_epochs(networks: list[ReportedNetwork]) -> None:
    network = networks[1]
    assert network.name == "zoo:lenet5-776"
    assert network.result is not None
    assert network.result.num_kept == 776
    assert network.lines == []
    assert "run folder" in network.missing["lines"]


def test_a_file_alone_tells_no_training(tmp_path: Path) -> None:
    copied = tmp_path / "mine.tailcut"
    copied.write_bytes(resolve("zoo:lenet5-776").read_bytes())
    (tmp_path / "mine.json").write_text("not a result of a run")
    (network,) = reported_networks([copied])
    assert (network.name, network.result, network.recipe) == ("mine", None, {})
    assert network.model is not None


def test_an_unfinished_run_has_its_recipe_and_epochs(run_folder: Path, tmp_path: Path) -> None:
    for name in ("recipe.toml", "metrics.jsonl"):
        (tmp_path / name).write_bytes((run_folder / name).read_bytes())
    (network,) = reported_networks([tmp_path])
    assert network.recipe["model"]["name"] == "lenet300"
    assert len(network.lines) == 3
    assert (network.stored, network.model, network.result) == (None, None, None)
    assert network.missing["model"] == "the run is not finished (3 epochs so far): there is no packed network yet"


def test_one_epoch_is_one_epoch(run_folder: Path, tmp_path: Path) -> None:
    shutil.copyfile(run_folder / "recipe.toml", tmp_path / "recipe.toml")
    first = (run_folder / "metrics.jsonl").read_text().splitlines()[0]
    (tmp_path / "metrics.jsonl").write_text(first + "\n")
    (network,) = reported_networks([tmp_path])
    assert network.missing["model"] == "the run is not finished (1 epoch so far): there is no packed network yet"


def test_why_a_run_has_no_curves(run_folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run_folder, tmp_path / "run")
    (copied / "metrics.jsonl").unlink()
    (network,) = reported_networks([copied])
    assert network.missing == {"lines": "its metrics.jsonl is missing or empty"}
    result = json.loads((copied / "result.json").read_text())
    (copied / "result.json").write_text(json.dumps(result | {"epochs": 0}))
    (network,) = reported_networks([copied])
    assert network.missing == {"lines": "it was trained for 0 epochs"}
    (copied / "result.json").unlink()
    (network,) = reported_networks([copied])
    assert network.missing["lines"] == "no epoch of it is finished yet"


def test_a_finished_run_whose_network_was_moved_away_is_finished(run_folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run_folder, tmp_path / "run")
    (copied / "model.tailcut").unlink()
    (network,) = reported_networks([copied])
    assert network.result == Run(run_folder).read_result()
    assert network.model is None
    reason = "the run is finished, but its model.tailcut is not there any more"
    assert network.missing == {"stored": reason, "model": reason}


def test_damaged_files_of_a_run_are_named_in_their_place(run_folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run_folder, tmp_path / "run")
    content = bytearray((copied / "model.tailcut").read_bytes())
    content[-9] ^= 1
    (copied / "model.tailcut").write_bytes(content)
    (copied / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo')
    network, whole = reported_networks([copied, "zoo:lenet5-776"])
    assert (network.stored, network.model, network.lines) == (None, None, [])
    assert network.result == Run(run_folder).read_result()
    assert "model.tailcut: the checksum" in network.missing["stored"]
    assert network.missing["model"] == network.missing["stored"]
    assert "metrics.jsonl, line 2 is no JSON" in network.missing["lines"]
    assert whole.model is not None


def test_a_damaged_result_of_a_run_leaves_its_network(run_folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run_folder, tmp_path / "run")
    (copied / "result.json").write_text('{"mAP": 0.5}')
    (network,) = reported_networks([copied])
    assert network.model is not None
    assert network.result is None
    assert network.recipe_section("model")["name"] == "lenet300"
    assert "result.json is no result of a run" in network.missing["result"]
    assert summary_section([network]).skipped == {"run": network.missing["result"]}


def test_an_error_without_words_is_told_by_its_kind() -> None:
    assert first_line(AssertionError()) == "AssertionError"
    assert first_line(ValueError("\n  one\ntwo")) == "one"


def test_a_network_of_a_users_own_class_is_not_built(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    regularize(model, num_kept=5)
    save(model, tmp_path / "own.tailcut")
    (network,) = reported_networks([tmp_path / "own.tailcut"])
    assert network.model is None
    assert network.stored is not None
    assert network.stored.num_kept == 5
    assert "own class" in network.missing["model"]


def test_names_are_short_where_that_is_enough(run_folder: Path, tmp_path: Path) -> None:
    files = [tmp_path / folder / "model.tailcut" for folder in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.write_bytes(resolve("zoo:lenet5-776").read_bytes())
    names = [network.name for network in reported_networks([*files, "zoo:lenet5-776"])]
    assert names == [*map(str, files), "zoo:lenet5-776"]
    assert reported_network(files[0], "mine").name == "mine"


def test_what_holds_no_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no run.*recipe.toml"):
        reported_networks([tmp_path])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        reported_networks([tmp_path / "nowhere"])
    with pytest.raises(ArgumentError, match="the zoo has no"):
        reported_networks(["zoo:nothing"])
    with pytest.raises(ArgumentError, match="given twice"):
        reported_networks(["zoo:lenet5-776", "zoo:lenet5-776"])


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    content = bytearray(resolve("zoo:lenet5-776").read_bytes())
    content[-9] ^= 1
    (tmp_path / "damaged.tailcut").write_bytes(content)
    with pytest.raises(ChecksumError, match="damaged"):
        reported_networks([tmp_path / "damaged.tailcut"])


@pytest.mark.parametrize(
    "content",
    [
        "name =",
        "a = " + "[" * 100_000,
        "[paper]\nmetrics = [1, 2]",
        '[paper]\nmetrics.accuracy = "high"',
        '[paper]\nnum_kept = "many"',
        "[data]\nname = 5",
    ],
)
def test_a_damaged_recipe_of_an_unfinished_run_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(content)
    with pytest.raises(DataError, match=r"recipe\.toml"):
        reported_networks([tmp_path])


def test_edits_are_named_in_order() -> None:
    assert edit_names("zoo:lenet5-776") == ["regularize"]
    assert edit_names("zoo:lenet5-ref") == []
    golden = Path(__file__).parents[1] / "format" / "golden" / "edits" / "pruned-regularized.tailcut"
    assert edit_names(golden) == ["prune", "regularize"]


@pytest.mark.parametrize(
    ("name", "shape", "is_pixels"), [("lenet5", (1, 28, 28), True), ("dcgan_generator", (100,), False)]
)
def test_example_inputs_are_the_same_in_every_call(name: str, shape: tuple[int, ...], is_pixels: bool) -> None:
    model = create_model(name)
    first, again = example_input(model, 2), example_input(model, 2)
    assert first is not None
    assert again is not None
    assert first.shape == (2, *shape)
    assert torch.equal(first, again)
    assert (bool((first >= 0).all()) and bool((first <= 1).all())) == is_pixels
    assert example_input(nn.Linear(2, 2)) is None


def test_example_inputs_have_the_size_that_the_network_was_trained_on() -> None:
    network = create_model("resnet20")
    set_image_size(network, (48, 64))
    example = example_input(network, 2)
    assert example is not None
    assert example.shape == (2, 3, 48, 64)
    channels = create_model("resnet18")
    replace_stem(channels, BlockDCT(24))
    set_image_size(channels, (448, 224))
    example = example_input(channels)
    assert example is not None
    assert example.shape == (1, 24, 56, 28)
    channels.eval()(example)
    set_image_size(network, (65536, 65536))
    with pytest.raises(LimitError, match="65,536"):
        example_input(network)
