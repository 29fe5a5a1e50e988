"""`tailcut evaluate`: the figures of a file on a data set."""

import argparse

from tailcut.cli.parser import Verbs, add_data_roots, add_dense, add_device, add_verb
from tailcut.printing import Report


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "evaluate",
        summary="measure a file on a data set",
        description="Measure a .tailcut file on a data set: accuracy for classes, mean Dice per picture for masks, "
        "COCO's average precision for objects.",
        example="  tailcut evaluate zoo:lenet5-776 --data mnist --data-root ~/data\n"
        "  tailcut evaluate unet.tailcut --data carvana --split published --json",
        run=run,
    )
    parser.add_argument("file", metavar="FILE", help="a .tailcut file or zoo:NAME")
    parser.add_argument("--data", required=True, metavar="NAME", help="mnist, cifar10, carvana, coco, digits")
    parser.add_argument("--split", metavar="NAME", help="the part of the data set; its test split if not given")
    add_data_roots(parser)
    parser.add_argument("--batch-size", type=int, metavar="N", help="pictures per forward pass")
    add_device(parser)
    add_dense(parser)


def run(arguments: argparse.Namespace) -> Report:
    """Evaluate."""
    from tailcut.training.detection_evaluation import evaluate_detector_file
    from tailcut.training.detection_prediction import holds_detector
    from tailcut.training.evaluation import evaluate_file

    if arguments.data == "coco" or holds_detector(arguments.file):
        return evaluate_detector_file(
            arguments.file,
            arguments.data,
            arguments.split,
            roots=arguments.data_root,
            batch_size=arguments.batch_size,
            device=arguments.device,
            progress=True,
        )
    return evaluate_file(
        arguments.file,
        arguments.data,
        arguments.split,
        roots=arguments.data_root,
        batch_size=arguments.batch_size,
        device=arguments.device,
        download=arguments.download,
        dense=arguments.dense,
        progress=True,
    )
