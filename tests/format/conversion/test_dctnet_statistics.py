from pathlib import Path

import pytest

from tailcut.errors import DataError
from tailcut.format.conversion.dctnet_statistics import MAX_BYTES, read_statistics

NUMBERS = [0.5 * number - 20 for number in range(192)]
SPREADS = [abs(number) + 1 for number in NUMBERS]
SOURCE = f"raise SystemExit\ntrain_upscaled_static_mean = {NUMBERS}\ntrain_upscaled_static_std = {SPREADS}\n"


def test_lists_are_read_and_nothing_runs(tmp_path: Path) -> None:
    path = tmp_path / "statistics.py"
    path.write_text(SOURCE)
    assert read_statistics(path) == (NUMBERS, SPREADS)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = (", "cannot be parsed"),
        ("x = 1", "expected train_upscaled_static_mean, a list of 192 numbers"),
        (SOURCE.replace("train_upscaled_static_std", "other"), "expected train_upscaled_static_std"),
        (SOURCE.replace("-20.0", "nan"), "expected train_upscaled_static_mean"),
        (SOURCE.replace("[21.0,", "[0.0,"), "must be positive"),
        ("#" * (MAX_BYTES + 1), "at most 1,048,576 bytes"),
    ],
)
def test_other_files_are_refused(source: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "statistics.py"
    path.write_text(source)
    with pytest.raises(DataError, match=message):
        read_statistics(path)
