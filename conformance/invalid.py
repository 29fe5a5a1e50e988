"""The invalid files of the corpus: each breaks one rule of SPEC.md, which `rules.json` names."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from conformance import invalid_container, invalid_edits, invalid_levels, invalid_network, invalid_numbers, invalid_stem
from conformance.reference.decoder import read
from conformance.reference.refusal import RefusedError
from conformance.valid import Named
from conformance.writer import Draft

PARTS: tuple[Callable[[], Iterator[Named]], ...] = (
    invalid_container.head,
    invalid_container.scalars,
    invalid_container.arguments,
    invalid_container.metadata,
    invalid_container.edit_lists,
    invalid_container.other_lists,
    invalid_container.streams,
    invalid_numbers.payloads,
    invalid_numbers.deflate_payloads,
    invalid_numbers.range_payloads,
    invalid_numbers.odd_payloads,
    invalid_numbers.quantized,
    invalid_numbers.along_axes,
    invalid_numbers.dependent,
    invalid_edits.regularize,
    invalid_edits.regularize_counts,
    invalid_edits.regularize_fits,
    invalid_stem.stem,
    invalid_stem.stem_entries,
    invalid_stem.stem_changes,
    invalid_stem.stem_fits,
    invalid_edits.prune,
    invalid_edits.ycbcr,
    invalid_network.tensors,
)


@dataclass(frozen=True)
class Case:
    """A file that is refused.

    Attributes:
        rule: the name of the rule that it breaks.
        content: the file.
        own: the own class that it is read into; None for a registered network.
        max_parameters: the cap, where it is not the usual one.
        alone: for a file that does not fit its own class: the rule that it breaks by itself, None if it is sound.
    """

    rule: str
    content: bytes
    own: str | None
    max_parameters: int | None = None
    alone: str | None = None


def _alone(content: bytes) -> str | None:
    try:
        read(content)
    except RefusedError as error:
        return error.rule
    return None


def cases() -> dict[str, Case]:
    """Name -> the file."""
    found: dict[str, Case] = {}
    for part in PARTS:
        for name, rule, made in part():
            assert name not in found, name
            content = made.file() if isinstance(made, Draft) else made
            own_class = made.own if isinstance(made, Draft) else "nothing"
            is_of_network = own_class is not None and name.startswith("fit-")
            found[name] = Case(rule, content, own_class, alone=_alone(content) if is_of_network else rule)
    for name, rule, content, own_class in invalid_levels.cases():
        found[name] = Case(rule, content, own_class, alone=rule)
    work = invalid_levels.too_much_work()
    found["levels-work"] = Case("level-work", work.file(), work.own, 1 << 21, "level-work")
    for name, rule, draft, cap in invalid_network.capped():
        found[name] = Case(rule, draft.file(), draft.own, cap, rule)
    return found
