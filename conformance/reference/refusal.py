"""How the reference reader refuses a file: by the name of the rule that it breaks."""

from typing import NoReturn


class RefusedError(Exception):
    """A file that breaks a rule of SPEC.md.

    Attributes:
        rule: its name in `rules.json`.
    """

    def __init__(self, rule: str, detail: str = "") -> None:
        super().__init__(f"{rule}: {detail}" if detail else rule)
        self.rule = rule


def refuse(rule: str, detail: str = "") -> NoReturn:
    raise RefusedError(rule, detail)


def require(holds: bool, rule: str, detail: str = "") -> None:
    if not holds:
        refuse(rule, detail)
