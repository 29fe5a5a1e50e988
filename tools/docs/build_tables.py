"""Writes the generated parts of README.md and of other pages, from the project's own records.

    python -m tools.docs.build_tables            rewrite the pages
    python -m tools.docs.build_tables --check    exit with 1 if a page is not what it would be

A generated part stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`. The records are docs/results/ (what
`tailcut train`, `tailcut evaluate --json` and the benchmarks wrote) and the package itself, for the list of its names.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tailcut.format import zoo_names
from tailcut.printing import figure_text
from tailcut.reports import by_name, make_table, read_records, start_is_older, start_of
from tailcut.runs import Result, read_result
from tailcut.tasks.reproduce import wanted_rows
from tailcut.training.experiments.definition import load_experiment, shipped_experiments, trials_of
from tailcut.training.experiments.sweep import find_results, make_report
from tools.docs.attack_tables import PAPER as PAPER_ATTACKS
from tools.docs.attack_tables import attack_tables
from tools.docs.byte_tables import ZOO, byte_table, trained_table, training_table
from tools.docs.combined_tables import CIFAR_ROWS, combined_table
from tools.docs.comparisons import (
    LAYER_SCORES,
    TUNED_SCORES,
    VGG_SCORES,
    answers,
    mean_and_spread,
    scores_compared,
    variants_compared,
)
from tools.docs.detection_table import detection_table
from tools.docs.findings import AGAINST, finding
from tools.docs.fuzz_tables import fuzz_table
from tools.docs.highlights import highlights
from tools.docs.level_tables import level_table
from tools.docs.markdown import counted, duration, markdown_table, percent
from tools.docs.peers import peer_table
from tools.docs.recipe_tables import recipe_table
from tools.docs.reference_tables import package_names, public_names

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("docs/results")
TABLE1 = RESULTS / "frequency-regularization"
UNET = Path("docs/results/published-unet")
BENCH = Path("docs/results/bench-main.json")
BENCH_OF = {
    topic: Path(f"docs/results/bench-{topic}.json")
    for topic in (
        "execution",
        "cuda",
        "cuda_graph",
        "inputs",
        "loading",
        "channels",
        "table5",
        "widths",
        "exporting",
        "microcontroller",
        "integers",
        "layers_in_c",
        "c_speed",
        "coding",
        "combined",
        "for_bytes",
    )
}
EXPERIMENTS = Path("docs/results/experiments")
ATTACKS = Path("docs/results/attacks")
FUZZING = Path("fuzz/results.json")
TRANSPLANT = Path("docs/results/bench-transplant.json")
NETWORKS = {"lenet300": "LeNet-300-100", "lenet5": "LeNet-5"}
BITS = {"float32": 32, "float16": 16}


@dataclass(frozen=True)
class PaperRow:
    """A row of Table 1 (IEEE Access 2023) that the authors' method or its reference network has.

    `num_kept` is None for the reference; the kept numbers of the others are float16. `smaller` is the factor as
    printed.
    """

    network: str
    name: str
    accuracy: float
    num_parameters: int
    num_kept: int | None = None
    smaller: int = 1


@dataclass(frozen=True)
class PeerRow:
    """A row of another method: what its authors or Table 1 say, as text."""

    network: str
    method: str
    accuracy: str
    kept: str
    file_bytes: str = ""
    smaller: str = ""


PAPER = (
    PaperRow("lenet300", "LeNet300-ref", 0.9815, 266_200),
    PaperRow("lenet300", "LeNet300-v1", 0.9711, 266_200, 4238, 114),
    PaperRow("lenet300", "LeNet300-v2", 0.9569, 266_200, 2816, 188),
    PaperRow("lenet5", "LeNet5-ref", 0.9878, 430_500),
    PaperRow("lenet5", "LeNet5-v1", 0.9835, 430_500, 7668, 112),
    PaperRow("lenet5", "LeNet5-v2", 0.9752, 430_500, 776, 1110),
)
TFC = "[TensorFlow Compression](https://www.tensorflow.org/tutorials/optimization/compression) (its tutorial)"
PEERS = (
    PeerRow("lenet300", "DeepCompress", "98.42 %", "21K, 6 to 8 bits", smaller="40"),
    PeerRow("lenet300", "DynSurgery", "98.01 %", "4.8K", smaller="56"),
    PeerRow("lenet300", TFC, "98.1 %", "", "8.56 KB", "124"),
    PeerRow("lenet5", "DeepCompress", "99.26 %", "34K, 6 to 8 bits", smaller="39"),
    PeerRow("lenet5", "DynSurgery", "99.09 %", "4.0K", smaller="108"),
    PeerRow("lenet5", "BA-FDNP", "99.08 %", "2.8K", smaller="150"),
    PeerRow("lenet5", TFC, "99.0 %", "", "2.84 KB", "606"),
)


def main() -> int:
    """Rewrite the pages, or with --check only say which ones would change. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a page is out of date")
    check = parser.parse_args().check
    stale = {page: text for page, text in build(ROOT).items() if page.read_text(encoding="utf-8") != text}
    for page, text in stale.items():
        print(f"{page.relative_to(ROOT)} {'is out of date' if check else 'rewritten'}")
        if not check:
            page.write_text(text, encoding="utf-8")
    return int(check and bool(stale))


def build(root: Path) -> dict[Path, str]:
    """Return the pages that have generated parts, and the text that each should have."""
    results = read_results(root / TABLE1)
    parts: dict[str, dict[str, Callable[[], str]]] = {
        "README.md": {
            "highlights": lambda: highlights(root / RESULTS),
            "table1": lambda: summary_table(results),
        },
        "docs/results.md": {
            "table1": lambda: table1(results),
            "runs": lambda: runs_table(results),
            "unet": lambda: unet_table(root / UNET),
            **{name: partial(paper_table, name, root) for name in ("table2", "table3", "table4")},
        },
        "docs/progressive-files.md": {"levels": lambda: level_table(root / RESULTS)},
        "docs/accuracy-per-byte.md": {
            "bytes": lambda: byte_table(root / RESULTS),
            "peers": lambda: peer_table(root / RESULTS),
            "bench": lambda: bench_tables(root / BENCH_OF["coding"], headings=False),
            "trained": lambda: trained_table(root / RESULTS),
        },
        "docs/make-it-fit.md": {
            "training": lambda: training_table(root / RESULTS),
            "bench": lambda: bench_tables(root / BENCH_OF["for_bytes"], headings=False),
        },
        "docs/detection.md": {"overfit": lambda: detection_table(root / RESULTS)},
        "docs/combined.md": {
            "combined": lambda: combined_table(root / RESULTS),
            "cifar10": lambda: combined_table(root / RESULTS, CIFAR_ROWS),
            "bench": lambda: bench_tables(root / BENCH_OF["combined"], headings=False),
        },
        "docs/benchmarks.md": {
            "bench": lambda: bench_tables(root / BENCH),
            "table5": lambda: bench_tables(root / BENCH_OF["table5"], headings=False),
        },
        "docs/run-fast.md": {
            "bench": lambda: bench_tables(root / BENCH_OF["execution"], headings=False),
            "cuda": lambda: bench_tables(root / BENCH_OF["cuda"], headings=False),
        },
        "docs/cluster.md": {"steps": lambda: bench_tables(root / BENCH_OF["cuda_graph"], headings=False)},
        "docs/export.md": {
            "bench": lambda: bench_tables(root / BENCH_OF["widths"], headings=False),
            "exporting": lambda: bench_tables(root / BENCH_OF["exporting"], headings=False),
        },
        "docs/microcontroller.md": {
            "bench": lambda: bench_tables(root / BENCH_OF["microcontroller"], headings=False),
            "integers": lambda: bench_tables(root / BENCH_OF["integers"], headings=False),
            "layers": lambda: bench_tables(root / BENCH_OF["layers_in_c"], headings=False),
            "speed": lambda: bench_tables(root / BENCH_OF["c_speed"], headings=False),
        },
        "docs/frequency-inputs.md": {
            "answers": lambda: answers(root / RESULTS),
            "runs": lambda: recipe_table(root / RESULTS, "frequency-inputs"),
            "bench": lambda: bench_tables(root / BENCH_OF["inputs"], headings=False),
            "loading": lambda: bench_tables(root / BENCH_OF["loading"], headings=False),
            "transplant": lambda: bench_rows(root / TRANSPLANT),
        },
        "docs/channel-pruning.md": {
            "runs": lambda: recipe_table(root / RESULTS, "frequency-pruning"),
            "worth": lambda: scores_compared(root / EXPERIMENTS),
            "worth-tuned": lambda: scores_compared(root / EXPERIMENTS, TUNED_SCORES),
            "worth-layers": lambda: variants_compared(root / EXPERIMENTS / "cfdp-resnet56", LAYER_SCORES),
            "worth-vgg": lambda: variants_compared(root / EXPERIMENTS / "cfdp-vgg16-bn", VGG_SCORES),
            "attacks": lambda: attack_tables(root / ATTACKS),
            "attacks-vgg": lambda: attack_tables(root / ATTACKS, "vgg16-bn", PAPER_ATTACKS),
            "bench": lambda: bench_tables(root / BENCH_OF["channels"], headings=False),
        },
        "docs/truncated-training.md": {name: partial(finding, name, root / EXPERIMENTS) for name in AGAINST},
        "docs/experiments.md": {"experiments": lambda: experiment_tables(root / EXPERIMENTS)},
        **{page: {"fuzzing": lambda: fuzz_table(root / FUZZING)} for page in ("docs/promises.md", "fuzz/README.md")},
        "docs/reference/index.md": {"public": public_names, "packages": package_names},
    }
    pages = {}
    for name, blocks in parts.items():
        text = (root / name).read_text(encoding="utf-8")
        for block, write in blocks.items():
            text = replace_block(text, block, write())
        pages[root / name] = text
    return pages


def replace_block(text: str, name: str, content: str) -> str:
    """`text` with `content` between the marks of the block; `ValueError` unless it has them just once."""
    pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    changed, count = pattern.subn(lambda found: f"{found[1]}\n{content}\n\n{found[2]}", text)
    if count != 1:
        raise ValueError(f"expected <!-- {name}:begin --> and <!-- {name}:end --> once, found them {count} times")
    return changed


def read_results(folder: Path) -> list[Result]:
    """Return the results of all runs in a folder, sorted by name of the file."""
    return [read_result(path) for path in sorted(folder.glob("*.json"))]


def paper_table(name: str, root: Path) -> str:
    """Return a paper's table beside the records of this project."""
    return make_table(name, wanted_rows(), by_name(read_records(root / RESULTS))).to_markdown().rstrip()


def of_row(results: Sequence[Result], row: PaperRow) -> list[Result]:
    """Our runs of the network and the count of a row of the paper, by seed."""
    found = [result for result in results if network_of(result) == row.network and kept(result) == row.num_kept]
    return sorted(found, key=lambda result: result.seed)


def network_of(result: Result) -> str:
    """Return the registered network that a run trained."""
    return str(result.recipe["model"]["name"])


def kept(result: Result) -> int | None:
    """How many coefficients the packed network keeps; None for a dense one."""
    return result.num_kept or None


def summary_table(results: Sequence[Result]) -> str:
    """For the README: one line per row of the paper, with the mean of our seeds and the largest of their files."""
    rows = []
    for row in PAPER:
        ours = of_row(results, row)
        rows.append(
            [
                NETWORKS[row.network],
                f"{row.num_parameters:,} weights" if row.num_kept is None else f"{row.num_kept:,} coefficients",
                percent(row.accuracy),
                f"**{mean_and_spread([run.metrics['accuracy'] for run in ours])}**" if ours else "not run",
                f"{max(run.file_bytes for run in ours):,}" if ours else "",
            ]
        )
    header = ["network", "kept", "paper", "Tailcut", "bytes of the file"]
    return markdown_table(header, rows, "<>>>>")


def table1(results: Sequence[Result]) -> str:
    """Return the paper's Table 1 with our rows beside the paper's, and the peers'."""
    rows: list[list[str]] = []
    for network, title in NETWORKS.items():
        rows.append([f"**{title}**", "", "", "", ""])
        for row in (row for row in PAPER if row.network == network):
            rows.append(paper_cells(row))
            rows += [our_cells(result) for result in of_row(results, row)] or [["Tailcut", "not run", "", "", ""]]
        rows += [our_cells(result) for result in beyond_the_paper(results, network)]
        rows += [
            [peer.method, peer.accuracy, peer.kept, peer.file_bytes, peer.smaller and f"{peer.smaller} x"]
            for peer in PEERS
            if peer.network == network
        ]
    return markdown_table(["method", "test accuracy", "numbers kept", "bytes", "smaller by"], rows, "<>>>>")


def beyond_the_paper(results: Sequence[Result], network: str) -> list[Result]:
    """Our runs of a network whose count is in no row of the paper, the largest count first."""
    counts = {row.num_kept for row in PAPER if row.network == network}
    found = [result for result in results if network_of(result) == network and kept(result) not in counts]
    return sorted(found, key=lambda result: -result.num_kept)


def paper_cells(row: PaperRow) -> list[str]:
    """Return a row of the paper; the bytes are those of the numbers alone."""
    count, dtype = (row.num_parameters, "float32") if row.num_kept is None else (row.num_kept, "float16")
    num_bytes = count * BITS[dtype] // 8
    return [
        f"the paper's {row.name}",
        percent(row.accuracy),
        f"{count:,} {dtype}",
        f"{num_bytes:,} and shapes",
        f"{row.smaller:,} x",
    ]


def our_cells(result: Result) -> list[str]:
    """Return the row of a run: bytes of the whole file, and their ratio to float32 weights in the last column."""
    dtype = result.recipe["pack"]["dtype" if result.num_kept else "other_dtype"]
    count = result.num_kept or result.num_parameters
    others = f" + {result.num_other:,}" if result.num_kept and result.num_other else ""
    smaller = 4 * result.num_parameters / result.file_bytes
    accuracy = percent(result.metrics["accuracy"])
    return [
        f"**Tailcut** `{result.name}`",
        f"**{accuracy}**",
        f"{count:,}{others} {dtype}",
        f"{result.file_bytes:,}",
        f"{smaller:,.0f} x",
    ]


def runs_table(results: Sequence[Result]) -> str:
    """How each of our rows was trained."""
    rows = [
        [
            f"`{result.name}`",
            _start_text(result),
            f"{result.epochs}",
            f"{result.seed}",
            f"{result.num_devices} x {result.device}, {counted(result.num_threads, 'thread')}",
            duration(result.seconds),
            metrics_text(result.validation) or "none held out",
            metrics_text(result.metrics),
            result.versions.get("torch", ""),
            f"`{result.command}`",
        ]
        for result in sorted(results, key=lambda result: result.name)
    ]
    if not rows:
        return "No run is committed yet."
    header = ["recipe", "start", "epochs", "seed", "device", "time", "validation", "test", "torch", "command"]
    table = markdown_table(header, rows, "<<>><>>><<")
    lost = sorted({result.name for result in results if _start_is_gone(result)})
    return f"{table}\n\n{_note_on_starts(lost)}" if lost else table


def _start_text(result: Result) -> str:
    start = start_of(result)
    if start is None:
        return "fresh"
    if _start_is_gone(result):
        return f"`{start}`, not in the zoo (see below)"
    return f"`{start}`, an earlier one" if start_is_older(result) else f"`{start}`"


def _start_is_gone(result: Result) -> bool:
    """Return whether a run started from a network that the zoo lacks, so that its command cannot be repeated."""
    start = start_of(result)
    return start is not None and start.startswith(ZOO) and start.removeprefix(ZOO) not in zoo_names()


def _note_on_starts(names: Sequence[str]) -> str:
    told = " and ".join(f"`{name}`" for name in names)
    return (
        f"**Not in the zoo**: the commands of {told} cannot be repeated as they are, since these runs started from "
        "networks that do not ship. The recipes of the same names come closest: given now, the commands train all "
        "[stages](recipes.md#stages) from scratch, with the same settings. As a whole they were not run yet, so the "
        "figures may differ."
    )


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Figures side by side; those that are no accuracy with their names."""
    return ", ".join(
        figure_text(name, value) if name == "accuracy" else f"{name} {figure_text(name, value)}"
        for name, value in metrics.items()
    )


def unet_table(folder: Path) -> str:
    """Return the published UNet as converted: bytes by `tailcut inspect --json`, Dice by `tailcut evaluate --json`."""
    rows = []
    for name in ("float32", "float16", "float16-all", "float16-val"):
        dtype = name.partition("-")[0]
        inspected, evaluated = folder / f"inspect-{dtype}.json", folder / f"evaluate-{name}.json"
        if not (inspected.is_file() and evaluated.is_file()):
            rows.append([dtype, "not run", "", "", ""])
            continue
        stored = json.loads(inspected.read_text(encoding="utf-8"))
        measured = json.loads(evaluated.read_text(encoding="utf-8"))
        rows.append(
            [
                dtype,
                f"{measured['metrics']['dice']:.6f}",
                f"{stored['num_kept']:,} of {stored['num_parameters']:,}",
                f"{stored['file_bytes']:,}",
                f"{measured['num_images']}, split {measured['split']}",
            ]
        )
    return markdown_table(["dtype", "mean Dice", "coefficients", "bytes of the file", "images"], rows, "<>>><")


def experiment_tables(folder: Path) -> str:
    """Return each experiment that ships: its question, what it compares, and its table from FOLDER/NAME/*.json."""
    parts = []
    for name in shipped_experiments():
        experiment, records = load_experiment(name), folder / name
        trials = trials_of(experiment, folder)  # no runs lie there: only records count
        report = make_report(experiment, trials, find_results(trials, records if records.is_dir() else None))
        source = f" The paper's figures: {experiment.paper_source}." if experiment.paper_source else ""
        text = f"{experiment.description.strip()}{source}"
        parts += [f"## {name}", f"**{experiment.question}** {text}", report.to_markdown().strip()]
    return "\n\n".join(parts)


def bench_tables(path: Path, *, headings: bool = True) -> str:
    """Return the benchmarks that were run, one table each; with a heading for each topic, if wanted."""
    if not path.is_file():
        return "No benchmark run is committed yet."
    record = json.loads(path.read_text(encoding="utf-8"))
    parts = [_machine_line(record["machine"], record["scale"])] if "machine" in record else []
    for topic, tables in record["topics"].items():
        parts += [f"## {topic.capitalize()}"] if headings else []
        parts += [_bench_table(table) for table in tables]
    return "\n\n".join(parts)


def _machine_line(machine: Mapping[str, Any], scale: str) -> str:
    note = f" ({machine['note']})" if machine["note"] else ""
    return (
        f"{machine['processor']}{note}, {counted(machine['num_threads'], 'thread')}, torch {machine['torch_version']}, "
        f"Python {machine['python_version']}; sizes: {scale}. Measured limits: a copy reads and writes "
        f"{machine['copy_rate'] / 1e9:.1f} GB/s, a float32 matrix product makes {machine['product_rate'] / 1e9:.1f} "
        "GFLOP/s."
    )


def bench_rows(path: Path) -> str:
    """Return a measurement without times: its table and notes."""
    return _bench_table(json.loads(path.read_text(encoding="utf-8")))


def _bench_table(table: Mapping[str, Any]) -> str:
    rows = table["rows"]
    header = list(rows[0])
    align = "".join("<" if any(isinstance(row[key], str) for row in rows) else ">" for key in header)
    cells = [[figure(row[key]) for key in header] for row in rows]
    return "\n\n".join([f"### {table['title']}", markdown_table(header, cells, align), *table["notes"]])


def figure(value: str | float | None) -> str:
    """Return a value of a benchmark: whole numbers whole, others with three digits that count."""
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
