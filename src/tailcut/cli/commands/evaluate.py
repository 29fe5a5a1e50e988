"""`tailcut evaluate`: the metrics of a file's network on a data set."""

import argparse

from tailcut.cli.output import check_processes
from tailcut.cli.parser import (
    Commands,
    Parser,
    add_command,
    add_data_roots,
    add_dense,
    add_device,
    add_device_arguments,
    add_level,
    add_max_input_pixels,
    add_reading,
    add_workers,
    devices_of,
    seed,
)
from tailcut.export_c.export import ARITHMETICS
from tailcut.printing import Report


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "evaluate",
        summary="measure a file on a data set",
        description="Measure a .tailcut file on a data set: accuracy of classifiers, mean Dice of networks of masks, "
        "COCO's average precision of detectors, Fréchet distance of generative networks. Several devices or machines "
        "can share the images.",
        example="  tailcut evaluate zoo:lenet5-776 --data mnist --data-root ~/data\n"
        "  tailcut evaluate unet.tailcut --data carvana --split published --json\n"
        "  tailcut evaluate unet.tailcut --data carvana --devices 4",
        run=run,
    )
    parser.add_argument("file", metavar="FILE", help="a .tailcut file or zoo:NAME")
    parser.add_argument(
        "--data",
        required=True,
        metavar="NAME",
        help="mnist, cifar10, carvana, coco, digits, folder:NAME, masks:NAME, ...",
    )
    parser.add_argument("--split", metavar="NAME", help="its split (default: the test split)")
    add_data_roots(parser)
    add_reading(parser)
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per forward pass")
    add_workers(parser)
    parser.add_argument(
        "--source",
        choices=("pixels", "coefficients"),
        default="pixels",
        help="coefficients: read those that JPEG files store, for networks on frequency channels (default: pixels)",
    )
    parser.add_argument(
        "--arithmetic",
        choices=ARITHMETICS,
        default="float32",
        help="integer: as tailcut export --to c --arithmetic integer computes, bit for bit (default: float32)",
    )
    _add_samples(parser)
    for add in (add_device, add_device_arguments, add_dense, add_max_input_pixels, add_level):
        add(parser)


def _add_samples(parser: Parser) -> None:
    """Add what only generative networks take."""
    parser.add_argument(
        "--num-samples", type=int, metavar="N", help="generative networks: images to generate (default: 10,000)"
    )
    parser.add_argument(
        "--seed", type=seed, metavar="N", help="generative networks: seed of the random codes (default: 0)"
    )
    parser.add_argument(
        "--features",
        metavar="NAME",
        help="generative networks: the network whose features are compared: lenet5 (default) or inception",
    )


def run(arguments: argparse.Namespace) -> Report | None:
    """Evaluate; only the first process reports."""
    from tailcut.evaluation.files import evaluate_file

    # One process does without the engine of several, which is an extra.
    words = (arguments.accelerator, arguments.devices, arguments.num_nodes, arguments.strategy)
    devices = None if words == ("auto", 1, 1, "auto") else devices_of(arguments)
    check_processes("evaluate", arguments.devices, arguments.num_nodes)
    report = evaluate_file(
        arguments.file,
        arguments.data,
        arguments.split,
        roots=arguments.roots,
        batch_size=arguments.batch_size,
        device=arguments.device,
        devices=devices,
        download=arguments.download,
        dense=arguments.dense,
        progress=True,
        max_input_pixels=arguments.max_input_pixels,
        source=arguments.source,
        arithmetic=arguments.arithmetic,
        level=arguments.level,
        num_samples=arguments.num_samples,
        seed=arguments.seed,
        features=arguments.features,
    )
    if devices is None:
        return report
    from tailcut.runtime.devices import is_global_zero

    return report if is_global_zero() else None
