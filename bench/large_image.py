"""One very large image through the fused UNet: seconds, and the memory of the whole process at its peak.

    python -m bench.large_image 6000 4000                        one JSON object
    python -m bench.large_image 1500 1000 64 128 256             of a UNet of these widths

It is measured in a process of its own, so that nothing else counts.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from bench.scale import FULL, Scale
from bench.tables import Table
from tailcut.execution import fuse
from tailcut.structure import create_model
from tailcut.weights import regularize

UNET_KEPT = 33
NUMBER_BYTES = 4  # of float32


def large_image_table(scale: Scale) -> Table:
    """Return the image of this scale, measured in another process."""
    width, height = scale.large_image
    command = [sys.executable, "-m", "bench.large_image", str(width), str(height), *map(str, scale.unet_widths)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    folder = Path(__file__).parent.parent
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=folder, env={**os.environ, **threads}
    )
    measured = json.loads(done.stdout)
    single_map = width * height * scale.unet_widths[0] * NUMBER_BYTES
    return Table(
        f"One image of {width:,} x {height:,} through the fused UNet, {UNET_KEPT} coefficients a layer",
        {"image": "", "s": ".1f", "peak GiB": ".2f", "one dense map GiB": ".2f"},
        [
            {
                "image": f"{width:,} x {height:,}",
                "s": measured["seconds"],
                "peak GiB": measured["peak_bytes"] / 2**30,
                "one dense map GiB": single_map / 2**30,
            }
        ],
        ["peak: of the whole process, Python and torch included. The dense network has several maps of full size."],
    )


def main() -> int:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("width", type=int)
    parser.add_argument("height", type=int)
    parser.add_argument("widths", type=int, nargs="*", help="of the UNet (default: the published ones)")
    arguments = parser.parse_args()
    scale = dataclasses.replace(FULL, unet_widths=tuple(arguments.widths) or FULL.unet_widths)
    torch.manual_seed(0)
    network = create_model("unet", **scale.unet_arguments()).eval()
    regularize(network, num_kept=UNET_KEPT)
    fused = fuse(network)
    image = torch.rand(1, 3, arguments.height, arguments.width)
    start = time.perf_counter()
    with torch.inference_mode():
        fused(image)
    seconds = time.perf_counter() - start
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts KiB
    print(json.dumps({"seconds": seconds, "peak_bytes": peak}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
