"""`tailcut evaluate`: the metrics of a file's network on a data set."""

import argparse
from typing import Any

from tailcut.cli.output import check_processes
from tailcut.cli.parser import (
    Commands,
    add_command,
    add_data_roots,
    add_dense,
    add_device,
    add_device_arguments,
    add_level,
    add_max_pixels,
    add_reading,
    add_workers,
    devices_of,
)
from tailcut.errors import ArgumentError
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
        choices=("float32", "integer"),
        default="float32",
        help="integer: as tailcut export --to c --arithmetic integer computes, bit for bit (default: float32)",
    )
    parser.add_argument(
        "--num-samples", type=int, metavar="N", help="generative networks: images to generate (default: 10,000)"
    )
    parser.add_argument(
        "--features",
        metavar="NAME",
        help="generative networks: the network whose features are compared: lenet5 (default) or inception",
    )
    for add in (add_device, add_device_arguments, add_dense, add_max_pixels, add_level):
        add(parser)


def run(arguments: argparse.Namespace) -> Report | None:
    """Evaluate; only the first process reports."""
    from tailcut.evaluation.detection import evaluate_detector_file
    from tailcut.evaluation.evaluate import evaluate_file
    from tailcut.evaluation.generation import NUM_SAMPLES, evaluate_generator_file, holds_generator
    from tailcut.tasks.prediction.predict_detection import holds_detector

    # One process does without the engine of several, which is an extra.
    words = (arguments.accelerator, arguments.devices, arguments.num_nodes, arguments.strategy)
    devices = None if words == ("auto", 1, 1, "auto") else devices_of(arguments)
    check_processes("evaluate", arguments.devices, arguments.num_nodes)
    what = (arguments.file, arguments.data, arguments.split)
    settings: dict[str, Any] = {
        "roots": arguments.roots,
        "batch_size": arguments.batch_size,
        "device": arguments.device,
        "devices": devices,
        "progress": True,
        "download": arguments.download,
        "level": arguments.level,
    }
    report: Report
    is_generator = holds_generator(arguments.file, arguments.level)
    is_detector = not is_generator and (arguments.data == "coco" or holds_detector(arguments.file, arguments.level))
    if arguments.source != "pixels" and (is_generator or is_detector):
        raise ArgumentError("--source coefficients is for networks of classes on frequency channels")
    if arguments.arithmetic != "float32" and (is_generator or is_detector):
        raise ArgumentError("--arithmetic integer is for networks of classes or masks")
    if arguments.arithmetic != "float32" and arguments.dense:
        raise ArgumentError("--dense has no meaning for --arithmetic integer, which computes as exported C does")
    if is_generator:
        num_samples = NUM_SAMPLES if arguments.num_samples is None else arguments.num_samples
        settings |= {"dense": arguments.dense}
        settings |= {} if arguments.features is None else {"features": arguments.features}
        report = evaluate_generator_file(*what, num_samples=num_samples, **settings)
    elif arguments.num_samples is not None or arguments.features is not None:
        raise ArgumentError("--num-samples and --features are for networks that make images; this network makes none")
    elif is_detector:
        report = evaluate_detector_file(*what, max_pixels=arguments.max_pixels, **settings)
    else:
        settings |= {"dense": arguments.dense, "max_pixels": arguments.max_pixels}
        settings |= {"source": arguments.source, "arithmetic": arguments.arithmetic}
        report = evaluate_file(*what, **settings)
    if devices is None:
        return report
    from tailcut.runtime.devices import is_first_process

    return report if is_first_process() else None
