"""Statistics over runs of one recipe that differ in their seeds only: mean and spread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tailcut.printing import Report, mean_and_spread
from tailcut.runs import Result

# Sections of a recipe that no number of a training depends on.
_WORDS = ("name", "description", "paper")


@dataclass(frozen=True)
class SeedMean(Report):
    """A figure of several runs of one recipe.

    Attributes:
        name: the recipe's name.
        metric: what is measured.
        mean: over the runs.
        spread: sample standard deviation over the runs (divided by one less than their number).
        seeds: of the runs, all different.
    """

    name: str
    metric: str
    mean: float
    spread: float
    seeds: tuple[int, ...]


def seed_means(results: Sequence[Result]) -> list[SeedMean]:
    """Return the mean of each metric of results of one recipe name; those of other settings are not mixed.

    Runs with other settings, images or metrics have separate means; a single seed has none.
    Of runs with the same settings and the same seed the first counts.
    """
    found = []
    for group in same_training(results):
        if len(group) > 1:
            for metric in group[0].metrics:
                values = [result.metrics[metric] for result in group]
                seeds = tuple(result.seed for result in group)
                mean, spread = mean_and_spread(values)
                found.append(SeedMean(group[0].name, metric, mean, spread, seeds))
    return found


def same_training(results: Sequence[Result]) -> list[list[Result]]:
    """Return the results in groups that differ in their seeds only, in order, with the first result of each seed."""
    groups: list[tuple[Any, list[Result]]] = []
    for result in results:
        settings = _settings(result)
        group = next((group for known, group in groups if known == settings), None)
        if group is None:
            groups.append((settings, [result]))
        elif result.seed not in (other.seed for other in group):
            group.append(result)
    return [group for _, group in groups]


def _settings(result: Result) -> Any:
    """Return the settings that runs must share for their mean to be meaningful."""
    return result.name, _without_seed(result.recipe), result.split_sizes, sorted(result.metrics)


def _without_seed(recipe: Mapping[str, Any]) -> dict[str, Any]:
    sections = {key: value for key, value in recipe.items() if key not in _WORDS}
    training = {key: value for key, value in recipe.get("training", {}).items() if key != "seed"}
    return {**sections, "training": training}
