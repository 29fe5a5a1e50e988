"""`tailcut convert`: converts other projects' files to .tailcut."""

from tailcut.cli.parser import Commands, add_command, add_dtypes, add_model_arguments

PROJECTS = ("frereg", "dctnet", "hrank", "chip", "cfdp")


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
        run="tailcut.tasks.convert:convert_file",
    )
    parser.add_argument("file", metavar="FILE", help="the file to convert")
    parser.add_argument("--from", required=True, choices=PROJECTS, dest="project", help="the project it comes from")
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
