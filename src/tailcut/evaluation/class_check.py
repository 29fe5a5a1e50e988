"""Check that a network and a data set name their classes alike."""

import logging
import re
from collections.abc import Callable, Sequence
from itertools import zip_longest

from torch import nn

from tailcut.data import Dataset, FolderDataset, InMemoryDataset
from tailcut.errors import ArgumentError, RecipeError
from tailcut.printing import named
from tailcut.structure import class_names

NUM_NAMED = 3  # classes in a warning

logger = logging.getLogger(__name__)


def check_class_names(model: nn.Module, dataset: Dataset) -> None:
    """Check that a classifier or detector and the images to measure it on mean the same classes by the same numbers.

    Nothing is reported if they cannot be compared: either has no names, or only one of them names its classes by
    numbers or codes (`7`, `digit 7`, `n01440764`); other numbers of such classes show in the outputs. Upper and lower
    case, spaces and signs between words do not count, nor objects that only one of them names.

    Raises:
        ArgumentError: names differ, or a classifier has other classes.
    """
    known, found = class_names(model), dataset.class_names
    if dataset.task not in ("classification", "detection") or known is None:
        return
    is_apart = _are_counted(known) or _are_counted(found) or _are_codes(known) != _are_codes(found)
    if is_apart and set(known) != set(found):  # the same names in another order are other classes
        return
    plain = all(len({_words(name) for name in names}) == len(names) for names in (known, found))
    alike = _words if plain else str  # signs distinguish some classes, as in C and C++
    if dataset.task == "classification" and len(known) != len(found):
        raise _other_classes(known, dataset, alike)
    for number, (own, other) in enumerate(zip(known, found, strict=False)):
        if own and other and alike(own) != alike(other):
            raise ArgumentError(
                f"class {number} is {own!r} for the network and {other!r} in {dataset.name}, split {dataset.split}, so "
                "answers would be counted for other classes. Measure it on the classes that it was trained for, named "
                "alike; or, if only the names differ, have it forget them with tailcut.set_class_names(model, None)"
            )


def _other_classes(known: Sequence[str], dataset: Dataset, alike: Callable[[str], str]) -> ArgumentError:
    """Return the error of a classifier of another number of classes, with those that only one of the two has."""
    owners = {"the network": known, dataset.name: dataset.class_names}
    words = {owner: {alike(name) for name in names} for owner, names in owners.items()}
    single = []
    for (owner, names), other in zip(owners.items(), reversed(words.values()), strict=True):
        alone = [repr(name) for name in names if alike(name) not in other]
        single += [f"{named(alone, NUM_NAMED)} only in {owner}"] if alone else []
    return ArgumentError(
        f"the network has {len(known)} classes, and {dataset.name}, split {dataset.split}, has "
        f"{len(dataset.class_names)}: {'; '.join(single) or 'names stand there twice'}. Measure it on the classes that "
        "it was trained for"
    )


def check_splits(train: Dataset, test: Dataset) -> None:
    """Check that two splits of a data set have the same classes in the same order; of objects, those that both name.

    Raises:
        RecipeError: they differ.
    """
    if train.task not in ("classification", "detection"):
        return
    is_whole = train.task == "classification"
    for number, (one, other) in enumerate(zip_longest(train.class_names, test.class_names)):
        if one != other and (is_whole or (one and other)):
            there, here = ("missing" if name is None else repr(name) for name in (one, other))
            raise RecipeError(
                f"data.test_split: class {number} is {there} in split {train.split} of {train.name} and {here} in "
                f"split {test.split}; both splits need the same classes"
            )
    _warn_of_unseen_classes(train, test)


def _warn_of_unseen_classes(train: Dataset, test: Dataset) -> None:
    """Say which classes of the test cannot be learned: names that differ by a letter or its case are two classes."""
    known = (FolderDataset, InMemoryDataset)
    if not isinstance(train, known) or not isinstance(test, known):  # whose classes are known without their images
        return
    unseen = sorted(set(test.labels.tolist()) - set(train.labels.tolist()))
    if unseen:
        logger.warning(
            "split %s of %s has no images of %s, which split %s has: the network cannot learn what it never sees",
            train.split,
            train.name,
            named([repr(train.class_names[number]) for number in unseen], NUM_NAMED),
            test.split,
        )


def warn_of_one_class(train: Dataset) -> None:
    """Say that images of one class teach a classifier nothing: whatever it answers is right."""
    if train.task != "classification" or not isinstance(train, (FolderDataset, InMemoryDataset)):
        return
    numbers = set(train.labels.tolist())
    if len(numbers) == 1:
        logger.warning(
            "all %s images of split %s of %s are of one class, %r: a network learns to answer it whatever it sees; a "
            "class needs another to be told from",
            f"{len(train):,}",
            train.split,
            train.name,
            train.class_names[numbers.pop()],
        )


def _are_counted(names: Sequence[str]) -> bool:
    """Return whether the names are just class numbers, from 0 or 1, with or without a word before them."""
    if not _are_codes(names):
        return False
    numbers = [int(name) for name in re.findall(r"[0-9]+$", "\n".join(names), re.MULTILINE)]
    return numbers in ([*range(len(names))], [*range(1, len(names) + 1)])


def _are_codes(names: Sequence[str]) -> bool:
    """Return whether the names are numbers behind one common word, or behind none."""
    return all(re.search(r"[0-9]$", name) for name in names) and len({re.sub(r"[0-9]+$", "", n) for n in names}) == 1


def _words(name: str) -> str:
    """Return the name in lower case, with one space between words; signs before and after them stay."""
    return re.sub(r"(?<=[^\W_])[\W_]+(?=[^\W_])", " ", name.casefold().strip())
