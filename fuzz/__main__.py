"""`python -m fuzz [MINUTES] [--target NAME ...]`: fuzz each target for its share of the time.

Ends with 1 at a finding and says how to see it again; `--replay FILE` does that, and `--minimise` puts what reached
new code into the repository, as little of it as reaches the same.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz.engine import EXECUTED, has_atheris
from fuzz.targets import CORPORA, ROOT, TARGETS, Target

WORK = ROOT / "build" / "fuzz"
MAX_KEPT_BYTES = 2048
MAX_KEPT = 60
GRACE_SECONDS = 300


def fuzz(name: str, seconds: float, seed: int) -> dict[str, object]:
    """Run one target in a process of its own, and count.

    Returns:
        What ran: target, engine, seconds, executions, and the files with findings.
    """
    corpus, findings, log = WORK / name, WORK / "findings" / name, WORK / f"{name}.log"
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(findings.iterdir())
    command = _command(name, corpus, findings, str(seconds), seed)
    with log.open("wb") as output:
        try:
            code = subprocess.run(
                command, cwd=ROOT, env=_environment(), stdout=output, stderr=output, timeout=seconds + GRACE_SECONDS
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    found = sorted(str(path.relative_to(ROOT)) for path in set(findings.iterdir()) - before)
    text = log.read_text(encoding="utf-8", errors="replace")
    counts = re.findall(rf"{EXECUTED}: +(\d+)", text) or re.findall(r"^#(\d+)", text, re.MULTILINE)
    if code and not found:
        found = [f"{log.relative_to(ROOT)} (ended with {code})"]
    return {
        "target": name,
        "engine": "atheris" if has_atheris() else "blind",
        "seconds": seconds,
        "executions": int(counts[-1]) if counts else 0,
        "findings": found,
    }


def replay(name: str, path: Path) -> None:
    """Try one content; what is wrong with it is raised."""
    TARGETS[name].try_content(path.read_bytes())
    print(f"{name}: nothing is wrong with {path}")


def minimise(name: str) -> None:
    """Keep in the repository what runs lines of ours that the seeds do not: small contents first, and few."""
    target = TARGETS[name]
    known: set[Line] = set()
    for path in target.seeds():
        known |= lines_of(target, path.read_bytes())
    folder = CORPORA / target.corpus
    folder.mkdir(parents=True, exist_ok=True)
    found = [path for path in (WORK / name).iterdir() if path.stat().st_size <= MAX_KEPT_BYTES]
    kept = 0
    for path in sorted(found, key=lambda path: (path.stat().st_size, path.name)):
        lines = lines_of(target, path.read_bytes())
        if lines <= known or kept == MAX_KEPT:
            continue
        known |= lines
        kept += 1
        shutil.copy(path, folder / path.name[:16])
    print(f"{name}: {kept} of {len(found)} are new")


Line = tuple[str, int]


def lines_of(target: Target, content: bytes) -> set[Line]:
    """Return the lines of ours that a content runs."""
    seen: set[Line] = set()
    ours = str(ROOT / "src")

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(ours):
            return None
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        target.run(content)
    finally:
        sys.settrace(None)
    return seen


def _command(name: str, corpus: Path, findings: Path, seconds: str, seed: int) -> list[str]:
    return [sys.executable, "-m", "fuzz.engine", name, str(corpus), str(findings), seconds, str(seed)]


def _environment() -> dict[str, str]:
    return dict(
        os.environ,
        OMP_NUM_THREADS="1",
        PYTHONPATH=os.pathsep.join((str(ROOT), str(ROOT / "src"))),
        NUMBA_BOUNDSCHECK="1",  # an index outside of an array is an error then, not another's memory
        NUMBA_CACHE_DIR=str(WORK / "numba"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("minutes", nargs="?", type=float, default=10.0, help="of all targets together")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one; may be given again")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 2**31, help="of the mutations")
    parser.add_argument("--replay", type=Path, help="try this file with the target, and nothing else")
    parser.add_argument("--minimise", action="store_true", help="put what reached new code into the repository")
    options = parser.parse_args()
    names = options.target or list(TARGETS)
    if options.replay is not None:
        replay(names[0], options.replay)
        return
    if options.minimise:
        for name in names:
            minimise(name)
        return
    if not has_atheris():
        print('Atheris is not installed (pip install ".[fuzz]"): blind mutants, not led by coverage', file=sys.stderr)
    findings = 0
    for name in names:
        result = fuzz(name, 60 * options.minutes / len(names), options.seed)
        print(json.dumps(result), flush=True)
        for path in result["findings"]:  # type: ignore[attr-defined]
            print(f"FINDING: python -m fuzz --target {name} --replay {path}", flush=True)
            findings += 1
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
