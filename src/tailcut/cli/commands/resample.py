"""`tailcut resample`: a truncated network with more or fewer channels."""

from tailcut.cli.parser import Commands, add_command, add_dtypes, add_model_arguments


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "resample",
        summary="give a truncated network more or fewer channels",
        description="Write a truncated network with another number of channels. Its weights are smooth along the "
        "channels, so that the same coefficients on a coarser grid are nearly the same network, which runs fast in any "
        "program. Measure it with tailcut evaluate.",
        example="  tailcut resample zoo:unet-759-float16 --set-argument 'widths=[16,32,64,128,256]' -o narrow.tailcut\n"
        "  tailcut export narrow.tailcut --to onnx -o narrow.onnx",
        run="tailcut.tasks.resample:resample_file",
    )
    parser.add_argument("source", metavar="FILE", help="a .tailcut file or zoo:NAME, of a registered model")
    add_model_arguments(parser, "an argument of the model that sets its channels, see tailcut models", required=True)
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="the .tailcut file to write")
    add_dtypes(parser)
