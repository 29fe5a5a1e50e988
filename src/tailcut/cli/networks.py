"""Arguments of commands that score a network: the network, and the images that it runs on."""

from tailcut.cli.parser import Parser, add_data_roots, add_model_arguments, add_reading, add_workers


def add_network(parser: Parser) -> None:
    """Add FILE|CHECKPOINT (`source`), --model and --set-argument (`arguments`), for `format.open_network`."""
    parser.add_argument(
        "source", metavar="FILE|CHECKPOINT", help="a .tailcut file, zoo:NAME, or a checkpoint of torch (with --model)"
    )
    parser.add_argument("--model", metavar="NAME", help="the registered model that a checkpoint belongs to")
    add_model_arguments(parser, "an argument of the model of a checkpoint")


def add_images(parser: Parser) -> None:
    """Add --data, --split, data roots, --workers, --num-batches, --batch-size and --seed: the images to score on."""
    parser.add_argument("--data", metavar="NAME", help="the data set to run on; not needed for l1, l2, fpgm and random")
    parser.add_argument("--split", default="train", metavar="NAME", help="its split (default: train)")
    add_data_roots(parser)
    add_reading(parser)
    add_workers(parser)
    parser.add_argument("--num-batches", type=int, default=5, metavar="N", help="batches to run on (default: 5)")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="images in each (default: 128)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed that chooses the images (default: 0)")
