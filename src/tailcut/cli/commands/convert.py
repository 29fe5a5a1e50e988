"""`tailcut convert`: converts other projects' files to .tailcut."""

import argparse
from functools import partial
from typing import Any

from tailcut.cli.parser import Commands, add_command, add_dtypes, add_model_arguments, settings
from tailcut.printing import Report

FREREG, DCTNET, HRANK, CHIP, CFDP = SOURCES = ("frereg", "dctnet", "hrank", "chip", "cfdp")


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "convert",
        summary="convert another project's file",
        description="Convert the file of another project. frereg: the networks published with Frequency "
        "Regularization (their .tar.xz, or the bare .pt in it). dctnet: those of Learning in the Frequency Domain. "
        "hrank, chip, cfdp: theirs, as trained or pruned. All are read without unpickling.",
        example="  tailcut convert unet_fr.tar.xz --from frereg --model unet -o unet.tailcut --dtype float16\n"
        "  tailcut convert model_best.pth.tar --from cfdp -o vgg16.tailcut\n"
        "  tailcut convert latest.pth --from dctnet --statistics mean_std.py -o detector.tailcut",
        run=run,
    )
    parser.add_argument("file", metavar="FILE", help="the file to convert")
    parser.add_argument("--from", required=True, choices=SOURCES, dest="project", help="the project it comes from")
    parser.add_argument(
        "--model", metavar="NAME", help="the registered model it belongs to; needed for frereg, else found in the file"
    )
    parser.add_argument(
        "--statistics",
        metavar="PY",
        help="for dctnet: the Python file of its source code that has the channel statistics",
    )
    add_model_arguments(parser, "an argument of that model, if it differs from the published one")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="the .tailcut file to write")
    add_dtypes(parser)


def run(arguments: argparse.Namespace) -> Report:
    from tailcut.errors import ArgumentError
    from tailcut.files import check_output_path
    from tailcut.format import write_network
    from tailcut.format.conversion import dctnet, frereg, hrank
    from tailcut.format.save import warn_of_unused_dtype

    check_output_path(arguments.out)
    if arguments.statistics is not None and arguments.project != DCTNET:
        raise ArgumentError("--statistics is for --from dctnet")
    model_arguments: dict[str, Any] | None = settings(arguments.arguments) or None
    if arguments.project == FREREG:
        if arguments.model is None:
            raise ArgumentError("--from frereg needs --model: its files do not name their network")
        model = frereg.convert(arguments.file, model=arguments.model, arguments=model_arguments)
    else:
        convert = hrank.convert
        if arguments.project == DCTNET:
            convert = partial(dctnet.convert, statistics=arguments.statistics)
        model = convert(arguments.file, model=arguments.model, arguments=model_arguments)
    report = write_network(model, arguments.out, dtype=arguments.dtype or "float32", other_dtype=arguments.other_dtype)
    warn_of_unused_dtype(report, arguments.dtype, arguments.other_dtype)
    return report
