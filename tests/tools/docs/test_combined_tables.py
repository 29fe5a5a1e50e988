"""The table of the three papers together says what the records say."""

import json
import re
from pathlib import Path

from tests.tools.docs.test_recipe_tables import record
from tools.docs.byte_tables import trained_table
from tools.docs.combined_tables import CIFAR, CIFAR_ROWS, COMBINED, ROWS, combined_points, combined_table
from tools.docs.highlights import highlights

RECORDS = Path(__file__).resolve().parents[3] / "docs" / "results"


def test_rows_come_from_the_records(tmp_path: Path) -> None:
    assert combined_table(tmp_path).count("not run") == 8
    record(tmp_path, "frequency-inputs/imagenette-resnet18-rgb112", 0, {"accuracy": 0.5})
    record(tmp_path, "frequency-inputs/imagenette-resnet18-rgb112", 1, {"accuracy": 0.6})
    record(tmp_path, f"combined/{COMBINED}", 3, {"accuracy": 0.75})
    (made,) = (tmp_path / "combined").glob("*.json")
    stage = json.loads(made.read_text(encoding="utf-8")) | {"name": f"{COMBINED}-weights"}
    (tmp_path / "stages" / "combined").mkdir(parents=True)
    (tmp_path / "stages" / "combined" / f"{COMBINED}-3-weights.json").write_text(json.dumps(stage), encoding="utf-8")
    table = combined_table(tmp_path)
    assert table.count("not run") == 5
    assert f"| pixels, 112 x 112, dense | 0, 1 | {stage['epochs']} | **55.0 ± 7.1 %** |" in table
    assert f"| ... trained for bytes | 3 | {stage['epochs']} | **75.0 %** |" in table
    assert f"| ... 5 % of the coefficients | 3 | {stage['epochs']} | **75.0 %** |" in table


def test_the_network_on_cifar10_is_compared_with_its_first_stage(tmp_path: Path) -> None:
    assert combined_table(tmp_path, CIFAR_ROWS).count("not run") == 4
    record(tmp_path, f"combined/{CIFAR}", 0, {"accuracy": 0.75})
    (made,) = (tmp_path / "combined").glob("*.json")
    own = json.loads(made.read_text(encoding="utf-8"))
    stage = own | {"name": f"{CIFAR}-inputs", "file_bytes": 50 * own["file_bytes"]}
    (tmp_path / "stages" / "combined").mkdir(parents=True)
    (tmp_path / "stages" / "combined" / f"{CIFAR}-inputs.json").write_text(json.dumps(stage), encoding="utf-8")
    table = combined_table(tmp_path, CIFAR_ROWS)
    assert table.count("not run") == 2
    assert table.splitlines()[2].endswith("| 1 : 1 |")
    assert table.splitlines()[-1].endswith("| 50 : 1 |")


def test_bytes_are_those_of_the_largest_file_of_the_seeds(tmp_path: Path) -> None:
    for name, sizes in (
        ("frequency-inputs/imagenette-resnet18-rgb112", (400, 800)),
        (f"combined/{COMBINED}", (4, 8, 3)),
    ):
        for seed, size in enumerate(sizes):
            record(tmp_path, name, seed, {"accuracy": 0.5}, file_bytes=size)
    table = combined_table(tmp_path)
    assert "largest file" in table.splitlines()[0]
    assert table.splitlines()[-1].endswith("| **8** | 100 : 1 |")
    assert [size for _, size, _ in combined_points(tmp_path)] == [800, 8]


def test_all_pages_give_the_same_bytes() -> None:
    for name, rows in ((COMBINED, ROWS), (CIFAR, CIFAR_ROWS)):
        (size,) = re.findall(rf"\| `{name}` \|.*\| \*\*([\d,]+)\*\* \|", trained_table(RECORDS))
        assert f"| **{size}** |" in combined_table(RECORDS, rows).splitlines()[-1]
        assert name != COMBINED or f"in at most {size} bytes" in highlights(RECORDS)
