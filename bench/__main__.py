"""The benchmarks' command line: `python -m bench [TOPIC]`, all topics if none is named."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import (
    c_speed,
    channels,
    coding,
    combined,
    cuda,
    cuda_graph,
    execution,
    exporting,
    files,
    for_bytes,
    inputs,
    integers,
    layers_in_c,
    loading,
    matrix_unit,
    microcontroller,
    sweeps,
    table5,
    training,
    transform,
    widths,
)
from bench.machine import Machine, measure_machine
from bench.scale import FULL, QUICK, TINY, Scale
from bench.tables import Table
from bench.timing import CLOCKS, num_threads
from tailcut.files import write_atomically

TOPICS: dict[str, Callable[[Scale, Machine], list[Table]]] = {
    "transform": transform.run,
    "sweeps": sweeps.run,
    "training": training.run,
    "for_bytes": for_bytes.run,
    "matrix_unit": matrix_unit.run,
    "files": files.run,
    "coding": coding.run,
    "execution": execution.run,
    "inputs": inputs.run,
    "loading": loading.run,
    "channels": channels.run,
    "table5": table5.run,
    "widths": widths.run,
    "exporting": exporting.run,
    "microcontroller": microcontroller.run,
    "integers": integers.run,
    "layers_in_c": layers_in_c.run,
    "c_speed": c_speed.run,
    "combined": combined.run,
    "cuda": cuda.run,
    "cuda_graph": cuda_graph.run,
}
SCALES = {"full": FULL, "quick": QUICK, "tiny": TINY}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen topics, print their tables, write JSON if asked to."""
    parser = _parser()
    options = parser.parse_args(arguments)
    name = "quick" if options.quick else options.scale
    scale = dataclasses.replace(SCALES[name], clock=options.clock)
    threads = options.threads or (1 if options.clock == "processor" else torch.get_num_threads())
    if options.clock == "processor" and threads > 1:
        parser.error("processor time means something on one thread only: give --threads 1")
    topics = list(TOPICS) if options.topic == "all" else [options.topic]
    with num_threads(threads):
        machine = measure_machine(scale, options.machine)
        print(machine, flush=True)
        print(f"All times are medians of {options.clock} time over runs in turn (A B A B ...).\n")
        content: dict[str, Any] = {"machine": machine.to_dict(), "scale": name, "clock": options.clock, "topics": {}}
        for topic in topics:
            tables = TOPICS[topic](scale, machine)
            for table in tables:
                print(f"{table}\n", flush=True)
            content["topics"][topic] = [table.to_dict() for table in tables]
            # After each topic: the later ones take minutes, and what is measured shall not be lost.
            if options.json is not None:
                write_atomically(options.json, json.dumps(content, indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Compare Tailcut with its peers, in the same run.",
        epilog="example: python -m bench transform --quick --json transform.json",
    )
    parser.add_argument("topic", nargs="?", choices=[*TOPICS, "all"], default="all", help="what to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer runs: about a minute")
    parser.add_argument("--scale", choices=list(SCALES), default="full", help="sizes and runs (default: full)")
    parser.add_argument("--threads", type=int, help="threads of torch and SciPy (default: torch's)")
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="processor: for a busy machine, on one thread"
    )
    parser.add_argument("--machine", default="", metavar="TEXT", help="what to say about the machine")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
