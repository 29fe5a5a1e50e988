"""`tailcut export`: files for other programs: ONNX, C99, a page for browsers, or dense weights."""

import argparse

from tailcut.cli.parser import Commands, add_command, add_level, call
from tailcut.errors import ArgumentError
from tailcut.export_c.export import ARITHMETICS
from tailcut.printing import Report

TARGETS = ("onnx", "c", "html", "safetensors", "torch")
SIZED = ("c", "html")
WITH_INPUT = ("onnx", "c")
DYNAMIC = ("all", "batch", "none")
INPUTS = ("own", "pixels")


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "export",
        summary="write files for other programs: ONNX, C, a web page, safetensors or torch",
        description="Write a network for other programs. onnx: a small program that holds the coefficients and "
        "computes its cosines itself (small, not necessarily fast; needs the extra onnx). c: a folder of C99 for "
        "microcontrollers, which runs the network without its dense weights, for one size of input. html: one page "
        "that runs it in any browser, from the disk and offline. safetensors, torch: the dense weights by name, as "
        "safetensors or as a state_dict of torch.",
        example="  tailcut export zoo:lenet5-776 --to onnx -o lenet5.onnx\n"
        "  tailcut export channels.tailcut --to onnx --input pixels -o pixels.onnx\n"
        "  tailcut export zoo:unet-759-float16 --to c --size 96x96 -o unet\n"
        "  tailcut export zoo:lenet5-1500 --to c --arithmetic integer -o integers\n"
        "  tailcut export zoo:imagenette-resnet18-combined --to c --input pixels -o channels\n"
        "  tailcut export zoo:unet-759-float16 --to html -o masks.html\n"
        "  tailcut export zoo:lenet5-776 --to torch -o lenet5.pt",
        run=run,
    )
    parser.add_argument("file", metavar="FILE", help="a .tailcut file of a registered model, or zoo:NAME")
    parser.add_argument("--to", required=True, choices=TARGETS, help="what to write")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="the file to write (for c: the folder)")
    parser.add_argument(
        "--input",
        choices=INPUTS,
        help="onnx, c: the input. own: that of the network (default); pixels: RGB images of 0 to 1, which are "
        "transformed for a network on frequency channels or YCbCr",
    )
    parser.add_argument(
        "--arithmetic",
        choices=ARITHMETICS,
        help="c: integer computes with integers alone, for processors without a floating-point unit (default: float32)",
    )
    parser.add_argument(
        "--size",
        dest="image_size",
        type=_size,
        metavar="HxW",
        help="c, html: height and width of the input, such as 96x96",
    )
    parser.add_argument(
        "--dynamic",
        choices=DYNAMIC,
        help="onnx: sizes of the input that may vary. all: each that the network lets vary (default); batch: the batch "
        "alone, which takes less time to write; none",
    )
    add_level(parser)


def run(arguments: argparse.Namespace) -> Report:
    if arguments.image_size is not None and arguments.to not in SIZED:
        raise ArgumentError(f"--size is for --to {' and '.join(SIZED)}; --to {arguments.to} takes no --size")
    if arguments.input is not None and arguments.to not in WITH_INPUT:
        raise ArgumentError(f"--input is for --to {' and '.join(WITH_INPUT)}; --to {arguments.to} takes no --input")
    if arguments.arithmetic is not None and arguments.to != "c":
        raise ArgumentError(f"--arithmetic is for --to c; --to {arguments.to} has one arithmetic")
    if arguments.dynamic is not None and arguments.to != "onnx":
        raise ArgumentError(f"--dynamic is for --to onnx; --to {arguments.to} takes no --dynamic")
    from tailcut.tasks.export import export_file

    return call(export_file, arguments)


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.lower().partition("x")
    if not cross or not height.isdigit() or not width.isdigit():
        raise argparse.ArgumentTypeError(f"expected height and width as 96x96, got {text!r}")
    return int(height), int(width)
