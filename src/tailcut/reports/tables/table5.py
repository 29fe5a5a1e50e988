"""Table 5 of Frequency Regularization, a benchmark without training: 508 photos through the UNet."""

import json
from pathlib import Path

from tailcut.errors import DataError
from tailcut.reports.tables.paper_tables import ReproducedRow, ReproduceReport
from tailcut.reports.tables.records import records_folder

RECORD = "bench-table5.json"
COMMAND = "python -m bench table5 --json docs/results/bench-table5.json"
NUM_KEPT = 759
PAPER_SECONDS = {1: 79.0, 2: 52.0, 3: 39.0, 4: 38.0}  # by number of GPUs
_WAYS = ("fused", "dense")
_PROCESSES = (1, 2)
_OTHER_DEVICES = "the paper's are GPUs, ours are processes with one CPU thread each"


def table5(record: str | Path | None = None) -> ReproduceReport:
    """Seconds for the 508 photos, beside the paper's with as many GPUs.

    Args:
        record: the benchmark's JSON; the one that comes with Tailcut if not given. Rows that it lacks are not run.

    Raises:
        DataError: the record is damaged.
    """
    path = Path(record) if record is not None else records_folder() / RECORD
    measured: dict[tuple[str, int], float] = {}
    device = None
    if path.is_file():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            device = str(content["machine"]["processor"])
            for row in content["topics"]["table5"][0]["rows"]:
                measured[row["way"], row["processes"]] = float(row["s for 508"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise DataError(f"{path} is no record of the benchmark: make it anew by {COMMAND}") from error
    rows = [_row(way, processes, measured.get((way, processes)), device) for way in _WAYS for processes in _PROCESSES]
    return ReproduceReport("table5", tuple(rows), ())


def _row(way: str, processes: int, seconds: float | None, device: str | None) -> ReproducedRow:
    return ReproducedRow(
        name=f"unet-{NUM_KEPT}, {way}, {processes} process{'es' if processes > 1 else ''}",
        metric="seconds",
        paper=PAPER_SECONDS[processes],
        ours=seconds,
        comparable=False,
        why_not=_OTHER_DEVICES if seconds is not None else f"not run: {COMMAND}",
        lower_is_better=True,
        num_kept=None if seconds is None else NUM_KEPT,
        device=None if seconds is None else device,
    )
