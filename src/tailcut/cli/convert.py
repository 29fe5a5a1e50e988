"""`tailcut convert`: other projects' files to .tailcut."""

import argparse
from typing import Any

from tailcut.cli.parser import Verbs, add_codecs, add_model_arguments, add_verb, settings
from tailcut.printing import Report

SOURCES = ("frereg",)


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "convert",
        summary="convert another project's file",
        description="Convert the file of another project. frereg: the networks published with Frequency "
        "Regularization (their .tar.xz, or the bare .pt in it).",
        example="  tailcut convert unet_fr.tar.xz --from frereg --model unet -o unet.tailcut --dtype float16",
        run=run,
    )
    parser.add_argument("file", metavar="FILE", help="the file to convert")
    parser.add_argument("--from", required=True, choices=SOURCES, dest="source", help="the project it comes from")
    parser.add_argument("--model", required=True, metavar="NAME", help="the registered model it belongs to")
    add_model_arguments(parser, "an argument of that model, where it is not the published one")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="the .tailcut file to write")
    add_codecs(parser)


def run(arguments: argparse.Namespace) -> Report:
    """Convert."""
    from tailcut.format import write
    from tailcut.format.conversion import frereg

    model_arguments: dict[str, Any] | None = settings(arguments.model_arguments) or None
    model = frereg.convert(arguments.file, model=arguments.model, arguments=model_arguments)
    return write(model, arguments.out, dtype=arguments.dtype or "float32", other_dtype=arguments.other_dtype)
