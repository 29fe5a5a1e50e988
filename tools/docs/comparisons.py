"""Recipes and variants against one of them, in a table: means over their seeds, from the records."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from scipy.stats import ttest_ind_from_stats

from tailcut.reports import read_records, same_training
from tailcut.runs import Result, read_result
from tools.docs.markdown import counted, markdown_table

ACCURACY = "accuracy"
SMALLEST_SHOWN = 0.001
# Each group is a row and those that are compared with it.
Group = tuple[str, Sequence[str]]
# The paper's claim, frequency channels against pixels at equal MACs; and how much the colours alone explain.
CLAIMS: tuple[Group, ...] = (
    (
        "imagenette-resnet18-rgb112",
        ("imagenette-resnet18-dct24", "imagenette-resnet18-dct64", "imagenette-resnet18-ycbcr112"),
    ),
    ("imagenette-mobilenetv2-rgb112", ("imagenette-mobilenetv2-dct24", "imagenette-mobilenetv2-dct12")),
)
# CFDP's score against the usual ones, and against none.
OTHERS = ("l1", "l2", "fpgm", "apoz", "bn_scale", "hrank", "random")
SCORES: tuple[Group, ...] = (("spectral-untuned", [f"{other}-untuned" for other in OTHERS]),)
LAYER_SCORES: tuple[Group, ...] = tuple(
    (f"spectral{ending}", [f"{other}{ending}" for other in ("l1", "fpgm", "apoz", "hrank", "random")])
    for ending in ("", "-47")
)
# The paper's ablations on its own network, where nothing is fine-tuned and after two epochs.
VGG_SCORES: tuple[Group, ...] = (
    ("all-untuned", ("frequency-untuned", "spectral-untuned", "spatial-untuned", "l1-untuned", "random-untuned")),
    ("all", ("frequency", "spectral", "spatial", "l1", "random")),
)
TUNED_SCORES: tuple[Group, ...] = (("spectral", OTHERS),)


def answers(records: Path) -> str:
    """Return what the trainings on Imagenette say of the claims of "Learning in the Frequency Domain"."""
    results = read_records(records)
    names = {name for base, others in CLAIMS for name in (base, *others)}
    return comparison_table("recipe", CLAIMS, {name: values_of(results, name) for name in names})


def scores_compared(experiments: Path, groups: Sequence[Group] = SCORES) -> str:
    """Return what the pruning of ResNet-20 says of channel scores."""
    return variants_compared(experiments / "cfdp-baselines", groups)


def variants_compared(records: Path, groups: Sequence[Group]) -> str:
    """Return the table of some variants of an experiment, from the folder of its records."""
    names = {name for base, others in groups for name in (base, *others)}
    return comparison_table("variant", groups, {name: accuracies(records, name) for name in names})


def comparison_table(what: str, groups: Sequence[Group], values: Mapping[str, Sequence[float]]) -> str:
    """Return a table of accuracies; each group's first row, in bold, is what the others are compared with.

    Args:
        what: the title of the first column.
        groups: the rows.
        values: the accuracies of each row's seeds, 0 to 1; empty where it was not run.
    """
    rows = []
    for base, others in groups:
        rows.append([f"**`{base}`**", *_own_cells(values[base]), "", ""])
        rows += [[f"`{name}`", *_own_cells(values[name]), *_compared(values[name], values[base])] for name in others]
    return markdown_table([what, "accuracy", "seeds", "difference", "p"], rows, "<>>>>")


def _own_cells(values: Sequence[float]) -> list[str]:
    return [mean_and_spread(values), str(len(values))] if values else ["not run", ""]


def _compared(values: Sequence[float], base: Sequence[float]) -> list[str]:
    """Return the difference of the means in points, and how likely chance makes one like it."""
    if not values or not base:
        return ["", ""]
    return [f"{100 * (statistics.fmean(values) - statistics.fmean(base)):+.2f}", p_value(values, base)]


def accuracies(records: Path, variant: str) -> list[float]:
    """Return the accuracies of a variant's seeds, from the folder of an experiment's records, VARIANT-SEED.json.

    `a-47-0` is seed 0 of the variant `a-47`, not one of `a`.
    """
    prefix = f"{variant}-"
    paths = [path for path in records.glob(f"{prefix}*.json") if path.stem.removeprefix(prefix).isdecimal()]
    return [read_result(path).metrics[ACCURACY] for path in sorted(paths)]


def values_of(results: Sequence[Result], name: str) -> list[float]:
    """Return the accuracies of a recipe's runs of one kind, of which there are most."""
    groups = same_training([result for result in results if result.name == name])
    return [result.metrics[ACCURACY] for result in max(groups, key=len, default=[])]


def figure(values: Sequence[float]) -> str:
    """Mean, spread and number of seeds."""
    return f"{mean_and_spread(values)}, {counted(len(values), 'seed')}"


def mean_and_spread(values: Sequence[float]) -> str:
    """0.60 and 0.61 as `60.50 ± 0.71 %`; one value has no spread."""
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{spread} %"


def p_value(values: Sequence[float], base: Sequence[float]) -> str:
    """Return p of Welch's t-test, since two or three seeds tell little of their own spread; empty without a test."""
    if min(len(values), len(base)) < 2:
        return ""
    # By mean and spread: where a network never learns all seeds are equal, which a test of the values warns of.
    (mean, spread), (other, other_spread) = ((statistics.fmean(of), statistics.stdev(of)) for of in (values, base))
    if spread == other_spread == 0:
        return ""
    test = ttest_ind_from_stats(mean, spread, len(values), other, other_spread, len(base), equal_var=False)
    chance = float(test.pvalue)
    if chance < SMALLEST_SHOWN:
        return f"< {SMALLEST_SHOWN}"
    return f"{chance:.3f}" if chance < 0.1 else f"{chance:.2f}"
