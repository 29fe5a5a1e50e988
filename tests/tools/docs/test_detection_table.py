from pathlib import Path

from tests.tools.docs.test_recipe_tables import record
from tools.docs.detection_table import OVERFIT, detection_table
from tools.docs.recipe_tables import HEADER

from tailcut.reports import read_records
from tailcut.training.recipe.toml_files import load_recipe
from tools.docs import recipe_tables

METRICS = {"box_AP": 0.5, "box_AP50": 0.75, "box_AP75": 0.5, "box_APM": 0.625, "box_APL": 0.875}


def test_figures_are_those_of_the_record(tmp_path: Path) -> None:
    assert "not run" in detection_table(tmp_path)
    record(tmp_path, f"frequency-inputs/{OVERFIT}", 0, METRICS, split_sizes={"train": 60, "test": 60}, seconds=600.0)
    row = [cell.strip() for cell in detection_table(tmp_path).splitlines()[-1].strip("|").split("|")]
    # There are no small objects here, and so no figure.
    figures = ["50.00 %", "75.00 %", "50.00 %", "", "62.50 %", "87.50 %"]
    assert row == [f"`{OVERFIT}`", "0", "60", "60", "10 min", *figures]
    cells = recipe_tables.cells(load_recipe(OVERFIT), read_records(tmp_path))
    assert cells[HEADER.index("test accuracy")] == "box_AP50 75.00 %"
