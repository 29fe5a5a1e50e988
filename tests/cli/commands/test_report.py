from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tailcut import data
from tailcut.errors import DataError
from tailcut.format import save
from tailcut.structure import create_model
from tailcut.weights import regularize

Tailcut = Callable[..., Any]


def test_a_page_is_written_with_samples(tailcut: Tailcut, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    words = ["report", "zoo:lenet300-2816", "-o", out, "--data", "digits", "--num-samples", "4", "--json"]
    shown = tailcut(*words)
    assert shown.code == 0, shown.err
    assert shown.json["out"] == str(out)
    assert shown.json["page_bytes"] == out.stat().st_size
    assert shown.json["networks"] == ["zoo:lenet300-2816"]
    assert [item["section"] for item in shown.json["skipped"]] == ["Training curves"]
    (speed,) = shown.json["speeds"]
    assert speed["input_shape"] == [1, 1, 28, 28]
    content = out.read_text()
    assert content.count("<img ") == 4
    assert "digits, split test" in content


def test_generators_draw_from_the_same_codes(tailcut: Tailcut, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("dcgan_generator", width=2)
    save(model, tmp_path / "reference.tailcut")
    regularize(model, keep_ratio=0.9)
    save(model, tmp_path / "truncated.tailcut")
    shown = tailcut("report", tmp_path / "reference.tailcut", tmp_path / "truncated.tailcut", "-o", tmp_path / "a.html")
    assert shown.code == 0, shown.err
    content = (tmp_path / "a.html").read_text()
    assert content.count("<img ") == 2
    assert "12 images that reference generated" in content
    assert f'width="{12 * 64}"' in content


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--num-samples", "0"], "none were asked for"),
        (["--data", "coco"], "the data set was not found"),
        ([], "its data set is unknown: name one with --data"),
    ],
)
def test_without_samples_the_page_says_why(
    words: list[str], reason: str, packed: Path, tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TAILCUT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shown = tailcut("report", packed, "-o", tmp_path / "a.html", *words)
    assert shown.code == 0, shown.err
    assert f"Samples: without small: {reason}" in shown.out
    assert reason in (tmp_path / "a.html").read_text()


def test_images_that_do_not_fit_are_named(tailcut: Tailcut, tmp_path: Path) -> None:
    save(create_model("dcgan_discriminator", width=2), tmp_path / "a.tailcut")
    shown = tailcut("report", tmp_path / "a.tailcut", "-o", tmp_path / "a.html", "--data", "digits")
    assert shown.code == 0, shown.err
    assert "Samples: without a: the network cannot take images of shape (1, 1, 28, 28)" in shown.out


def test_a_damaged_image_or_network_leaves_the_rest_of_the_page(
    tailcut: Tailcut, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise DataError("3.png is no image")

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").write_text("")
    (tmp_path / "run" / "model.tailcut").write_bytes(packed.read_bytes()[:-20])
    monkeypatch.setattr("tailcut.tasks.report.predict_samples", refuse)
    shown = tailcut("report", packed, tmp_path / "run", "-o", tmp_path / "a.html", "--data", "digits")
    assert shown.code == 0, shown.err
    assert "Samples: without small: the data set is damaged: 3.png is no image" in shown.out
    assert f"Bytes per layer: without run: {tmp_path / 'run' / 'model.tailcut'}: " in shown.out


def test_a_damaged_data_set_is_named(
    tailcut: Tailcut, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **settings: Any) -> None:
        raise DataError("digits.csv ends early")

    monkeypatch.setattr("tailcut.tasks.report.open_dataset", refuse)
    shown = tailcut("report", packed, "-o", tmp_path / "a.html", "--data", "digits")
    assert shown.code == 0, shown.err
    assert "Samples: without small: the data set is damaged: digits.csv ends early" in shown.out


def test_a_data_set_that_only_a_recipe_knows_is_named(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    packed.rename(run / "model.tailcut")
    (run / "recipe.toml").write_text('[data]\nname = "stars"')
    shown = tailcut("report", run, "-o", tmp_path / "a.html")
    assert shown.code == 0, shown.err
    assert "Samples: without run: unknown data set" in shown.out


def test_a_network_that_overflows_has_a_page(tailcut: Tailcut, tmp_path: Path) -> None:
    model = create_model("lenet300")
    regularize(model, num_kept=50)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e30)
    save(model, tmp_path / "big.tailcut")
    shown = tailcut("report", tmp_path / "big.tailcut", "-o", tmp_path / "a.html", "--num-samples", "0", "--json")
    assert shown.code == 0, shown.err
    assert shown.json["speeds"][0]["largest_difference"] is None


def test_a_page_replaces_no_file_of_a_run(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    packed.rename(run / "model.tailcut")
    (run / "recipe.toml").write_text("")
    shown = tailcut("report", run, "--num-samples", "0", "-o", run / "result.json")
    assert shown.code == 2
    assert f"it is a file of the run {run}; choose another file" in shown.err
    assert not (run / "result.json").exists()


def test_an_own_class_has_the_sections_of_its_file(tailcut: Tailcut, tmp_path: Path) -> None:
    save(nn.Linear(4, 4), tmp_path / "own.tailcut")
    shown = tailcut("report", tmp_path / "own.tailcut", "-o", tmp_path / "a.html", "--json")
    assert shown.code == 0, shown.err
    left = {item["section"] for item in shown.json["skipped"]}
    assert left == {
        "Results",
        "Training curves",
        "Samples",
        "Kept corners",
        "Spectrum of the weights",
        "Speed, fused against dense",
    }


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["zoo:nothing", "-o", "a.html"], 2, "the zoo has no"),
        (["zoo:lenet5-776", "-o", "nowhere/a.html"], 2, "cannot write"),
        (["zoo:lenet5-776", "-o", "a.html", "--num-samples", "-1"], 2, "--num-samples must be at least 0"),
        (["zoo:lenet5-776", "-o", "a.html", "--data", "stars"], 2, "unknown data set"),
        (["nowhere", "-o", "a.html"], 1, "no such file"),
        ([".", "-o", "a.html"], 1, "holds no run"),
        (["-o", "a.html"], 2, "required: RUN"),
    ],
)
def test_bad_usage_leaves_no_page(
    words: list[str], code: int, message: str, tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = tailcut("report", *words)
    assert shown.code == code
    assert message in shown.err
    assert list(tmp_path.iterdir()) == []


def test_a_run_shows_the_split_of_its_recipe_and_other_data_their_own(
    tailcut: Tailcut, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    packed.rename(run / "model.tailcut")
    (run / "recipe.toml").write_text('[data]\nname = "digits"\ntest_split = "train"')
    opened: list[Any] = []
    open_dataset = data.open_dataset

    def note(name: str, split: str | None, **settings: Any) -> data.Dataset:
        opened.append((name, split, settings))
        return open_dataset(name, split, **settings)

    monkeypatch.setattr("tailcut.tasks.report.open_dataset", note)
    words = ["report", run, "-o", tmp_path / "a.html", "--num-samples", 2]
    settings: dict[str, Any] = {"roots": None, "download": False}
    for more, split in (([], "train"), (["--data", "digits"], None), (["--split", "test"], "test")):
        assert tailcut(*words, *more).code == 0
        assert opened.pop() == ("digits", split, settings)
    assert tailcut(*words, "--data-root", tmp_path, "--download").code == 0
    assert opened.pop() == ("digits", "train", {"roots": [str(tmp_path)], "download": True})
