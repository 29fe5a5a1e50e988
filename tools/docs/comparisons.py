"""One recipe against another, in a sentence: means over their seeds, from the records."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from scipy.stats import ttest_ind_from_stats

from tailcut.reports import read_records, same_training
from tailcut.runs import Result, read_result
from tools.docs.markdown import counted

ACCURACY = "accuracy"
SIGNIFICANT = 0.05
SMALLEST_TOLD = 0.01
# The paper's claim, frequency channels against pixels at equal MACs; and how much the colours alone explain.
CLAIMS = (
    ("imagenette-resnet18-dct24", "imagenette-resnet18-rgb112"),
    ("imagenette-resnet18-dct64", "imagenette-resnet18-rgb112"),
    ("imagenette-resnet18-ycbcr112", "imagenette-resnet18-rgb112"),
    ("imagenette-mobilenetv2-dct24", "imagenette-mobilenetv2-rgb112"),
    ("imagenette-mobilenetv2-dct12", "imagenette-mobilenetv2-rgb112"),
)
# CFDP's score against the usual ones, and against none.
SCORES = (
    ("spectral-untuned", "l1-untuned"),
    ("spectral-untuned", "apoz-untuned"),
    ("spectral-untuned", "hrank-untuned"),
    ("spectral-untuned", "random-untuned"),
)
LAYER_SCORES = tuple(
    (f"spectral{ending}", f"{other}{ending}")
    for ending in ("", "-47")
    for other in ("l1", "fpgm", "apoz", "hrank", "random")
)
TUNED_SCORES = (("spectral", "l1"), ("spectral", "random"), ("l1", "random"))


def answers(records: Path) -> str:
    """Return the findings of the trainings on Imagenette on the claims of "Learning in the Frequency Domain"."""
    return "\n".join(f"- {comparison(records, name, other)}" for name, other in CLAIMS)


def scores_compared(experiments: Path, pairs: Sequence[tuple[str, str]] = SCORES) -> str:
    """Return the findings of the pruning of ResNet-20 on channel scores: a sentence for each pair of variants."""
    return variants_compared(experiments / "cfdp-baselines", pairs)


def variants_compared(records: Path, pairs: Sequence[tuple[str, str]]) -> str:
    """Return a sentence for each pair of variants of an experiment, from the folder of its records."""
    found = {name: accuracies(records, name) for pair in pairs for name in pair}
    return "\n".join(f"- {_sentence(name, found[name], other, found[other])}" for name, other in pairs)


def accuracies(records: Path, variant: str) -> list[float]:
    """Return the accuracies of a variant's seeds, from the folder of an experiment's records, VARIANT-SEED.json.

    `a-47-0` is seed 0 of the variant `a-47`, not one of `a`.
    """
    prefix = f"{variant}-"
    paths = [path for path in records.glob(f"{prefix}*.json") if path.stem.removeprefix(prefix).isdecimal()]
    return [read_result(path).metrics[ACCURACY] for path in sorted(paths)]


def comparison(records: Path, name: str, other: str) -> str:
    """Which of two recipes is the more accurate, and whether their seeds alone could make the difference.

    Args:
        records: the folder of the records, see `tailcut.reports.records_folder`.
        name: a recipe's name.
        other: the name of the one it is compared with.
    """
    results = read_records(records)
    return _sentence(name, values_of(results, name), other, values_of(results, other))


def _sentence(name: str, ours: Sequence[float], other: str, theirs: Sequence[float]) -> str:
    if not ours or not theirs:
        return f"`{name}` against `{other}`: not run."
    points = 100 * (statistics.fmean(ours) - statistics.fmean(theirs))
    word = "more" if points >= 0 else "less"
    told = f"`{name}` ({figure(ours)}) is {abs(points):.2f} points {word} accurate than `{other}` ({figure(theirs)})"
    return f"{told}; {meaning(ours, theirs)}."


def values_of(results: Sequence[Result], name: str) -> list[float]:
    """Return the accuracies of a recipe's runs of one kind, of which there are most."""
    groups = same_training([result for result in results if result.name == name])
    return [result.metrics[ACCURACY] for result in max(groups, key=len, default=[])]


def figure(values: Sequence[float]) -> str:
    """Mean, spread and number of seeds."""
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{spread} %, {counted(len(values), 'seed')}"


def meaning(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the significance by Welch's t-test, as two or three seeds tell little of their own spread."""
    if min(len(ours), len(theirs)) < 2:
        return "one seed cannot tell whether that is chance"
    # By mean and spread: where a network never learns all seeds are equal, which a test of the values warns of.
    (mean, spread), (other, other_spread) = ((statistics.fmean(of), statistics.stdev(of)) for of in (ours, theirs))
    if spread == other_spread == 0:
        return "the seeds of neither differ"
    test = ttest_ind_from_stats(mean, spread, len(ours), other, other_spread, len(theirs), equal_var=False)
    chance = float(test.pvalue)
    told = f"p = {chance:.2f}" if chance >= SMALLEST_TOLD else f"p < {SMALLEST_TOLD}"
    verdict = "is hardly chance" if chance < SIGNIFICANT else "may be chance"
    return f"a difference like this comes by chance with {told} (Welch's t-test), so it {verdict}"
