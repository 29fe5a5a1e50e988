"""One recipe against another, in a sentence: means over their seeds, from the records."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from docs.markdown import counted

from tailcut.reports import read_records, same_training
from tailcut.runs import Result

ACCURACY = "accuracy"
# The paper's claim, frequency channels against pixels at equal MACs; and how much the colours alone explain.
CLAIMS = (
    ("imagenette-resnet18-dct24", "imagenette-resnet18-rgb112"),
    ("imagenette-resnet18-dct64", "imagenette-resnet18-rgb112"),
    ("imagenette-resnet18-ycbcr112", "imagenette-resnet18-rgb112"),
    ("imagenette-mobilenetv2-dct24", "imagenette-mobilenetv2-rgb112"),
    ("imagenette-mobilenetv2-dct12", "imagenette-mobilenetv2-rgb112"),
)


def answers(records: Path) -> str:
    """What the trainings on Imagenette say of the claims of "Learning in the Frequency Domain"."""
    return "\n".join(f"- {comparison(records, name, other)}" for name, other in CLAIMS)


def comparison(records: Path, name: str, other: str) -> str:
    """Which of two recipes is the more accurate, and whether their seeds alone could make the difference.

    Args:
        records: the folder of the records, see `tailcut.reports.records_folder`.
        name: a recipe's name.
        other: the name of the one it is compared with.
    """
    results = read_records(records)
    ours, theirs = (values_of(results, one) for one in (name, other))
    if not ours or not theirs:
        return f"`{name}` against `{other}`: not run."
    points = 100 * (statistics.fmean(ours) - statistics.fmean(theirs))
    word = "more" if points >= 0 else "less"
    sentence = (
        f"`{name}` ({figure(ours)}) is {abs(points):.2f} points {word} accurate than `{other}` ({figure(theirs)})"
    )
    return f"{sentence}; {meaning(ours, theirs)}."


def values_of(results: Sequence[Result], name: str) -> list[float]:
    """The accuracies of a recipe's runs of one kind, of which there are most."""
    groups = same_training([result for result in results if result.name == name])
    return [result.metrics[ACCURACY] for result in max(groups, key=len, default=[])]


def figure(values: Sequence[float]) -> str:
    """Mean, spread and number of seeds."""
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{spread} %, {counted(len(values), 'seed')}"


def meaning(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """What the difference is worth: it is set against twice its standard error."""
    if min(len(ours), len(theirs)) < 2:
        return "one seed cannot tell whether that is chance"
    error = (statistics.variance(ours) / len(ours) + statistics.variance(theirs) / len(theirs)) ** 0.5
    apart = abs(statistics.fmean(ours) - statistics.fmean(theirs))
    text = f"the difference's standard error is {100 * error:.2f} points"
    return f"{text}, so that is more than chance" if apart > 2 * error else f"{text}, so that may be chance"
