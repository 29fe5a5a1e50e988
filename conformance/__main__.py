"""`python -m conformance`: the reference reader over the corpus."""

import json
import sys
from typing import Any

from conformance.networks import FOLDER, own_class, registered
from conformance.reference import Content, RefusedError, read


def check() -> list[str]:
    """What the reference reader does not do as the corpus says."""
    complaints = []
    valid = json.loads((FOLDER / "valid.json").read_text(encoding="utf-8"))
    for name, wanted in valid.items():
        content = (FOLDER / "valid" / f"{name}.tailcut").read_bytes()
        try:
            found = read(content, registered(), own_class(wanted["own"]) if wanted["own"] else None)
        except RefusedError as error:
            complaints.append(f"valid/{name}: refused, {error}")
            continue
        complaints += _compare(f"valid/{name}", found, wanted)
        for number, lower in enumerate(wanted.get("below", ()), start=1):
            network = own_class(wanted["own"]) if wanted["own"] else None
            complaints += _compare(
                f"valid/{name}, level {number}", read(content, registered(), network, level=number), valid[lower]
            )
    for name, wanted in json.loads((FOLDER / "invalid.json").read_text(encoding="utf-8")).items():
        content = (FOLDER / "invalid" / f"{name}.tailcut").read_bytes()
        network = own_class(wanted["own"]) if wanted["own"] else None
        try:
            read(content, registered(), network, max_parameters=wanted.get("max_parameters", 1 << 30))
        except RefusedError as error:
            if error.rule != wanted["rule"]:
                complaints.append(f"invalid/{name}: refused as {error}, expected {wanted['rule']}")
        else:
            complaints.append(f"invalid/{name}: accepted, expected {wanted['rule']}")
    return complaints


def _compare(name: str, found: Content, wanted: dict[str, Any]) -> list[str]:
    complaints = []
    stored = [(entry.name, entry.raw.hex()) for entry in found.kept]
    stored += [(entry.name, entry.raw.hex()) for entry in found.others]
    if stored != [(entry["name"], entry["numbers"]) for entry in (*wanted["coefficients"], *wanted["tensors"])]:
        complaints.append(f"{name}: other tensors or numbers")
    if found.metadata != wanted["metadata"] or [number for number, _ in found.edits] != wanted["edits"]:
        complaints.append(f"{name}: other metadata or edits")
    return complaints


if __name__ == "__main__":
    found = check()
    print("\n".join(found) or "every file is read or refused as it should be")
    sys.exit(1 if found else 0)
