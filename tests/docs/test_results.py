"""The committed records are those of the files and recipes that ship: a row of a table is never of something else."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tailcut.data import open_dataset
from tailcut.data.datasets import cifar10, masks, mnist
from tailcut.evaluation.evaluate import evaluate
from tailcut.evaluation.files import evaluate_file
from tailcut.format import inspect, load, resolve, save, zoo_folder, zoo_names
from tailcut.format.conversion import frereg
from tailcut.runs import read_result
from tailcut.training.recipe.toml_files import load_recipe, shipped_recipes
from tools.docs import build_tables

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / build_tables.RESULTS
FOLDERS = ("combined", "frequency-*", "training-for-bytes")
RECORDS = sorted(path for folder in FOLDERS for path in RESULTS.glob(f"{folder}/*.json"))
# Of Imagenette the records have 200 training and 60 test images a class, as the page says.
# Of COCO one detector is measured on its own training photos, as the page says.
TEST_IMAGES = {"mnist": 10_000, "cifar10": 10_000, "imagenette": 600, "carvana": 48, "coco": 60}
TOLERANCES = {"accuracy": 0.001, "fid": 0.01, "elbo": 0.001, "dice": 0.001}  # of the recorded value


class FirstImages(NamedTuple):
    """How many images of a test split stand for it, and how far their figure may lie from that of all."""

    number: int
    error: float


FIRST_IMAGES = {"cifar10": FirstImages(1000, 0.05), "carvana": FirstImages(6, 0.01)}  # the first: three standard errors
ON_FIRST_IMAGES = json.loads(Path(__file__).with_name("figures_on_first_images.json").read_text(encoding="utf-8"))
IN_THE_ZOO = [path for path in RECORDS if path.stem in zoo_names()]


def name_of(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", RECORDS, ids=name_of)
def test_record_is_named_like_its_recipe(path: Path) -> None:
    result = read_result(path)
    assert path.stem in (result.name, f"{result.name}-{result.seed}")
    assert f"{path.parent.name}/{result.name}" in shipped_recipes()


def test_commands_are_those_of_a_reader() -> None:
    """Folders are below the one that a command is given in, not those of the machine that it ran on."""
    at_home = re.compile(r"(?<![\w.:/])/(?:root|home|tmp|Users|work)/")
    assert [path.name for path in RESULTS.rglob("*.json") if at_home.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("path", RECORDS, ids=name_of)
def test_record_is_of_the_whole_test_split(path: Path) -> None:
    result = read_result(path)
    kind = result.recipe["data"]["name"].partition("@")[0]
    assert result.split_sizes["test"] == TEST_IMAGES[kind]


@pytest.mark.parametrize("path", IN_THE_ZOO, ids=name_of)
def test_record_is_of_the_file_in_the_zoo(path: Path) -> None:
    result, stored = read_result(path), inspect(f"zoo:{path.stem}")
    assert (result.file_bytes, result.num_kept, result.num_parameters) == (
        stored.file_bytes,
        stored.num_kept,
        stored.num_parameters,
    )
    beside = resolve(f"zoo:{path.stem}").with_suffix(".json")
    assert not beside.is_file() or read_result(beside) == result


@pytest.mark.parametrize("path", IN_THE_ZOO, ids=name_of)
def test_file_in_the_zoo_reaches_the_figures_of_its_record(path: Path, request: pytest.FixtureRequest) -> None:
    """On the whole test split if that takes seconds, and else on its first images.

    The figures on the first images were measured when the whole split gave the record's, and must be near it by
    themselves. Another CPU rounds otherwise, which moves a few images in ten thousand.
    """
    result, file = read_result(path), f"zoo:{path.stem}"
    data, split = result.recipe["data"]["name"], result.recipe["data"]["test_split"]
    kind = data.partition("@")[0]
    roots = [request.getfixturevalue(f"{kind}_root")]
    if data not in FIRST_IMAGES:
        evaluated = evaluate_file(file, data, split, roots=roots)
        assert evaluated.num_images == result.split_sizes["test"]
        assert evaluated.metrics.keys() == result.metrics.keys()
        for name, value in result.metrics.items():
            assert evaluated.metrics[name] == pytest.approx(value, rel=TOLERANCES[name]), name
        return
    (name, expected) = next(iter(ON_FIRST_IMAGES[path.stem].items()))
    assert expected == pytest.approx(result.metrics[name], abs=FIRST_IMAGES[data].error)
    first = open_dataset(data, split, roots=roots).part(0, FIRST_IMAGES[data].number)
    assert evaluate(load(file), first)[name] == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_record_of_the_published_unet(dtype: str, carvana_root: Path, tmp_path: Path) -> None:
    model = frereg.convert(carvana_root / "carvana" / "published" / "unet_fr.tar.xz", model="unet")
    save(model, tmp_path / "unet.tailcut", dtype=dtype)
    recorded = json.loads((ROOT / build_tables.UNET / f"inspect-{dtype}.json").read_text(encoding="utf-8"))
    assert json.loads(inspect(tmp_path / "unet.tailcut").to_json()) == recorded


@pytest.mark.parametrize("split", ["published", "val"])
def test_dice_of_the_published_unet(split: str, carvana_root: Path, tmp_path: Path) -> None:
    model = frereg.convert(carvana_root / "carvana" / "published" / "unet_fr.tar.xz", model="unet")
    save(model, tmp_path / "unet.tailcut", dtype="float16")
    name = "evaluate-float16.json" if split == "published" else f"evaluate-float16-{split}.json"
    recorded = json.loads((ROOT / build_tables.UNET / name).read_text(encoding="utf-8"))
    evaluated = evaluate_file(tmp_path / "unet.tailcut", "carvana", split, roots=[carvana_root])
    assert (recorded["split"], recorded["num_images"]) == (split, evaluated.num_images)
    assert evaluated.metrics == pytest.approx(recorded["metrics"], rel=TOLERANCES["dice"])


def test_rows_of_the_paper_are_those_of_the_recipes() -> None:
    """The figures of Table 1 stand in the recipes and in the table; they must agree."""
    by_name = {row.name: row for row in build_tables.PAPER}
    recipes = [load_recipe(path) for name, path in shipped_recipes().items() if name.startswith("frequency-reg")]
    papers = [recipe.paper for recipe in recipes if recipe.paper is not None and "Table 1," in recipe.paper.source]
    assert len(papers) >= len(by_name)
    for paper in papers:
        row = by_name[paper.source.rpartition(" ")[2]]
        assert (paper.metrics, paper.num_kept) == ({"accuracy": row.accuracy}, row.num_kept)


def test_the_gallery_tells_the_figures_of_the_records() -> None:
    page = " ".join((ROOT / "docs" / "gallery.md").read_text(encoding="utf-8").split())
    lenet, unet = (read_result(zoo_folder() / f"{name}.json") for name in ("lenet5-776", "unet-759-float16"))
    assert f"{lenet.metrics['accuracy']:.2%}".replace("%", " %") + f" on MNIST from {lenet.file_bytes:,} bytes" in page
    assert f"759 numbers, {unet.file_bytes:,} bytes" in page
    assert f"in {unet.seconds / 60:.0f} minutes from a network of as many numbers" in page
    assert f"({unet.metrics['dice']:.2%}".replace("%", " %") + " Dice" in page


def page_text(name: str) -> str:
    return " ".join((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8").split())


def test_figures_in_sentences_are_those_of_records_and_files() -> None:
    execution = json.loads((RESULTS / "bench-execution.json").read_text(encoding="utf-8"))["topics"]["execution"]
    (faster,) = (row["times faster"] for row in execution[0]["rows"] if row["way"] == "fused, compiled")
    assert f"the published UNet runs {faster:.0f} times faster on an image of 640 x 959" in page_text("run-fast")
    pages = {path.stem: path.stat().st_size for path in (ROOT / "docs" / "pages").glob("*.html")}
    for name, size in pages.items():
        assert f"](pages/{name}.html)" in page_text("browser")
        assert f" | {size:,} bytes |" in page_text("browser")
    assert f"{pages['unet-759-float16']:,} bytes, page and program too" in page_text("export")
    record = json.loads((RESULTS / "bytes" / "resnet20-60000.json").read_text(encoding="utf-8"))
    kept = (
        f"keeps {100 * record['after']:.2f} of {100 * record['before']:.2f} % on CIFAR-10 in {record['file_bytes']:,}"
    )
    assert kept in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def test_pages_agree_on_cuts_without_training() -> None:
    assert "| accuracy | 91.7 % | 80.5 % | 20.9 % | 10 %, chance |" in page_text("regularize")
    assert "from 91.7 to 80.5 % with 9/10 of its coefficients, and to chance with a quarter" in page_text("quick-start")


def test_the_page_of_recipes_names_every_folder_of_recipes() -> None:
    folders = {name.partition("/")[0] for name in shipped_recipes()}
    assert len(folders) > 5
    assert (
        set(re.findall(r"^\| `([\w-]+)/` \|", (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8"), re.M))
        == folders
    )


def test_the_page_of_recipes_links_the_sources_of_data() -> None:
    page = page_text("recipes")
    for url in (mnist.URL, cifar10.URL, "https://www.kaggle.com/c/carvana-image-masking-challenge"):
        assert f"({url})" in page
    assert f"({masks.CARVANA_ADVICE.partition('(')[2].partition(')')[0]})" in page
