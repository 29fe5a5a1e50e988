"""`tailcut export`: a file for other programs: a small ONNX network, or dense weights."""

import argparse
import sys

from tailcut.cli.parser import Verbs, add_verb
from tailcut.errors import ArgumentError
from tailcut.printing import Report

TARGETS = ("onnx", "safetensors", "torch")
INPUTS = ("own", "pixels")


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "export",
        summary="write a file for other programs: ONNX, safetensors or torch",
        description="Write a network for other programs. onnx: a small program that holds the coefficients and "
        "computes its cosines itself (small, not necessarily fast; needs the extra onnx). safetensors, torch: the "
        "dense weights by name, as safetensors or as a state_dict of torch.",
        example="  tailcut export zoo:lenet5-776 --to onnx -o lenet5.onnx\n"
        "  tailcut export channels.tailcut --to onnx --input pixels -o pixels.onnx\n"
        "  tailcut export zoo:lenet5-776 --to torch -o lenet5.pt",
        run=run,
    )
    parser.add_argument("file", metavar="FILE", help="a .tailcut file of a registered model, or zoo:NAME")
    parser.add_argument("--to", required=True, choices=TARGETS, help="what to write")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="the file to write")
    parser.add_argument(
        "--input",
        choices=INPUTS,
        help="onnx: what the file takes. own: what the network takes (default); pixels: RGB images of 0 to 1, and "
        "the file itself makes the input of a network on frequency channels or YCbCr",
    )


def run(arguments: argparse.Namespace) -> Report:
    """Export."""
    if arguments.to == "onnx":
        from tailcut.execution.onnx.export import export_onnx
        from tailcut.format import load

        pixels = arguments.input == "pixels"
        return export_onnx(load(arguments.file), arguments.out, pixels=pixels, tell=_tell)
    if arguments.input is not None:
        raise ArgumentError(f"--input is for --to onnx; a file of weights (--to {arguments.to}) takes no input")
    from tailcut.tasks.pack import unpack

    return unpack(arguments.file, arguments.out, to=arguments.to)


def _tell(stage: str) -> None:
    print(f"{stage} ...", file=sys.stderr, flush=True)
