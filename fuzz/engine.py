"""Runs one target: Atheris, led by coverage; or, without it, blind mutants of the seeds.

`python -m fuzz` starts this for each target, in a process of its own.
"""

import importlib.util
import random
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

RESIDENT_MB = 3000
SECONDS_OF_ONE = 120  # by the clock, which on a busy machine is not processor time; the target's own bound is that
MAX_LENGTH = 1 << 16
EXECUTED = "stat::number_of_executed_units"  # libFuzzer's word for it, read by `python -m fuzz`
FOLLOWED = (
    "tailcut.format",
    "tailcut.structure",
    "tailcut.weights",
    "tailcut.inputs",
    "tailcut.jpeg",
    "tailcut.channels",
    "tailcut.training",
)
# What numba compiles: instrumented bytecode is none that it knows.
COMPILED = (
    "tailcut.format.quantized.loops",
    "tailcut.inputs.transform.loops",
    "tailcut.jpeg.scans",
    "tailcut.execution.cpu.interpreter",
    "tailcut.execution.cpu.loops",
)


def has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


def blind(name: str, corpus: Path, findings: Path, seconds: str, seed: int) -> None:
    """Try mutants of the seeds until the time is over, or one is a finding, which is written."""
    from fuzz.targets import TARGETS

    target, rng = TARGETS[name], random.Random(seed)
    contents = [path.read_bytes() for path in (*target.seeds(), *sorted(corpus.glob("*")))]
    prime(target)
    end, tried = time.monotonic() + float(seconds), 0
    while time.monotonic() < end:
        content = rng.choice(contents)
        for _ in range(rng.choice((1, 1, 2, 3))):
            content = target.mutate(content, rng)[:MAX_LENGTH]
        tried += 1
        try:
            target.try_content(content)
        except Exception:  # noqa: BLE001 -- whatever it raises is what is looked for
            traceback.print_exc()
            (findings / f"crash-{seed}-{tried}").write_bytes(content)
            break
    print(f"{EXECUTED}: {tried}", file=sys.stderr)
    if list(findings.iterdir()):
        sys.exit(1)


def led_by_coverage(name: str, corpus: Path, findings: Path, seconds: str, seed: int) -> None:
    """Atheris: mutates what reached new code. Ends the process, with a code other than 0 at a finding."""
    import atheris

    # Only what is tried is followed; where numba compiles, it must see the code as it was written.
    with atheris.instrument_imports(include=list(FOLLOWED), exclude=list(COMPILED)):
        from fuzz.targets import TARGETS
    target = TARGETS[name]
    prime(target)
    sources = corpus.parent / f"{name}-seeds"
    shutil.rmtree(sources, ignore_errors=True)
    sources.mkdir()
    for place, path in enumerate(target.seeds()):
        shutil.copy(path, sources / f"{place}-{path.name}")

    def change(content: bytes, rng: random.Random) -> bytes:
        # libFuzzer's own mutations know what was compared with what.
        if rng.random() < 0.5:
            from fuzz.mutators import havoc

            return havoc(content, rng)
        changed: bytes = atheris.Mutate(content, len(content) + 64)
        return changed

    def mutate(content: bytes, most: int, number: int) -> bytes:
        return target.mutate(content, random.Random(number), change)[:most]

    atheris.Setup(
        [
            sys.argv[0],
            f"-artifact_prefix={findings}/",
            f"-rss_limit_mb={RESIDENT_MB}",
            f"-timeout={SECONDS_OF_ONE}",
            f"-report_slow_units={SECONDS_OF_ONE}",  # what is written counts as a finding; the target watches its time
            f"-max_len={MAX_LENGTH}",
            f"-seed={seed or 1}",
            "-print_final_stats=1",
            f"-max_total_time={int(float(seconds))}",
            str(corpus),
            str(sources),
        ],
        target.try_content,
        custom_mutator=mutate,
    )
    atheris.Fuzz()


def prime(target: Any) -> None:
    """What is compiled or imported at the first use is not to count for the first content."""
    for path in target.seeds():
        target.run(path.read_bytes())


def main(name: str, corpus: str, findings: str, seconds: str, seed: str) -> None:
    run = led_by_coverage if has_atheris() else blind
    run(name, Path(corpus), Path(findings), seconds, int(seed))


if __name__ == "__main__":
    main(*sys.argv[1:])
