"""`tailcut select`: the frequency channels that a trained gate opens most often."""

from tailcut.cli.parser import Commands, add_command, add_data_roots, add_device, add_reading, add_workers


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "select",
        summary="choose frequency channels by a trained gate",
        description="Run the gate of a network with frequency-domain inputs over a data set, and write the channels "
        "that are open most often as a selection, to train a network on these alone.",
        example="  tailcut select runs/gate -o selection.json --channels 24 --heat-maps heat.png\n"
        "  tailcut select gate.tailcut -o selection.json --channels 14+5+5 --data imagenette@448 --data-root ~/data",
        run="tailcut.tasks.select_channels:select_channels",
    )
    parser.add_argument("source", metavar="FILE", help="a .tailcut file of a network with a gate, or a run folder")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="the JSON file to write")
    parser.add_argument(
        "--channels",
        dest="num_channels",
        type=counts,
        metavar="N",
        help="how many, or three counts for Y, Cb and Cr as in 14+5+5 (default: those more likely open than closed)",
    )
    parser.add_argument("--heat-maps", metavar="IMAGE", help="draw the probabilities as a PNG; needs the extra plots")
    parser.add_argument("--data", metavar="NAME", help="the data set, such as imagenette@448; not needed for a run")
    parser.add_argument("--split", metavar="NAME", help="its split (default: the test split)")
    add_data_roots(parser)
    add_reading(parser)
    add_workers(parser)
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images at a time (default: 32)")
    add_device(parser)


def counts(text: str) -> int | tuple[int, ...]:
    """`24`, or three counts as in `14+5+5`."""
    numbers = tuple(int(part) for part in text.split("+"))
    return numbers[0] if len(numbers) == 1 else numbers
