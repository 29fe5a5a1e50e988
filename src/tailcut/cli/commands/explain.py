"""`tailcut explain`: the regions of an image that a class score depends on."""

from tailcut.cli.parser import Commands, add_command, add_device, add_max_input_pixels, add_reading


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "explain",
        summary="draw where in an image networks find its class (Grad-CAM)",
        description="Draw an image and, on it, where each network finds one class, by Grad-CAM: red speaks for the "
        "class. Two files show, for example, what pruning changed.",
        example="  tailcut explain resnet20.tailcut slim.tailcut --image frog.png -o cam.png\n"
        "  tailcut explain zoo:lenet5-776 --image digit.png --layer conv2 --class 7 -o cam.png",
        run="tailcut.tasks.prediction.explain:explain_files",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a .tailcut file or zoo:NAME; more to compare")
    parser.add_argument("--image", required=True, metavar="IMAGE", help="a PNG or JPEG file")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="the PNG to write")
    parser.add_argument(
        "--layer",
        metavar="NAME",
        help="the convolution to explain, by its map after the activation and pooling that follow it (default: the "
        "last whose map has more than one place)",
    )
    parser.add_argument(
        "--class",
        type=int,
        metavar="N",
        dest="class_number",
        help="the class to explain (default: what the first network predicts)",
    )
    add_reading(parser, skips=False)
    add_device(parser)
    add_max_input_pixels(parser)
