"""Writes the corpus: `python -m conformance.make`. The same files every time, on every machine."""

import json
import shutil
from typing import Any

from conformance import invalid, valid, valid_axes, valid_dependent, valid_levels
from conformance.level_writer import Levels
from conformance.networks import FOLDER, own_class, registered, written
from conformance.reference.decoder import read
from conformance.reference.meaning import dense
from conformance.writer import Draft

MAX_DENSE = 400


def expected(draft: Draft, content: bytes) -> dict[str, Any]:
    """What a reader must find. The tensors' names and numbers are the writer's own."""
    found = read(content, registered(), own_class(draft.own) if draft.own else None)
    coefficients = [
        {
            "name": entry.name,
            "shape": list(entry.shape),
            "axes": list(entry.axes),
            "order_weights": list(entry.weights),
            "count": entry.count,
            "numbers": entry.raw.hex(),
            **({"dense": [float(f"{x:.9g}") for x in dense(entry)]} if _size(entry.shape) <= MAX_DENSE else {}),
        }
        for entry in draft.kept
    ]
    tensors = [
        {
            "name": other.name,
            "shape": list(other.shape),
            "kind": "parameter" if other.is_parameter else "buffer",
            "type": other.type,
            "numbers": other.raw.hex(),
        }
        for other in draft.tensors
    ]
    return {
        "own": draft.own,
        "base": found.base,
        "arguments": {str(place): given for place, given in found.arguments.items()},
        "metadata": json.loads(draft.metadata) if draft.metadata else {},
        "edits": [kind for kind, _ in draft.edits],
        "coefficients_type": found.coefficients_type,
        "coefficients": coefficients,
        "tensors": tensors,
    }


def _size(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def contents() -> dict[str, bytes]:
    """Path below this folder -> content, of the whole corpus."""
    made: dict[str, bytes] = {"networks.json": written().encode()}
    found: dict[str, Any] = {}
    for name, case in {**valid.cases(), **valid_axes.cases(), **valid_dependent.cases()}.items():
        draft = case()
        made[f"valid/{name}.tailcut"] = draft.file()
        found[name] = expected(draft, draft.file())
    for name, whole in valid_levels.cases().items():
        levels = whole()
        made[f"valid/{name}.tailcut"] = levels.file()
        found[name] = {**expected(levels.draft(), levels.file()), **_told(name, levels)}
    made["valid.json"] = _lines(found)
    rules = json.loads((FOLDER / "rules.json").read_text(encoding="utf-8"))
    refused: dict[str, Any] = {}
    for name, wrong in invalid.cases().items():
        made[f"invalid/{name}.tailcut"] = wrong.content
        refused[name] = {"rule": wrong.rule, "error": rules[wrong.rule]["error"], "own": wrong.own}
        if wrong.max_parameters is not None:
            refused[name]["max_parameters"] = wrong.max_parameters
        if wrong.alone != wrong.rule:
            refused[name]["alone"] = wrong.alone and rules[wrong.alone]["error"]
    made["invalid.json"] = _lines(refused)
    return made


def _told(name: str, made: Levels) -> dict[str, Any]:
    """What the corpus says of levels."""
    is_whole = made.there == len(made.found)
    cuts = valid_levels.beginnings(name, len(made.parts)) if is_whole else range(0)
    below = [valid_levels.beginning(name, there) for there in cuts]
    return {"levels": len(made.found), "there": made.there, "below": below}


def _lines(found: dict[str, Any]) -> bytes:
    """JSON with a line for each file."""
    lines = [f"{json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}" for name, entry in found.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def main() -> None:
    for folder in ("valid", "invalid"):
        shutil.rmtree(FOLDER / folder, ignore_errors=True)
        (FOLDER / folder).mkdir()
    for path, content in contents().items():
        (FOLDER / path).write_bytes(content)


if __name__ == "__main__":
    main()
