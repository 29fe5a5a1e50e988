"""`tailcut predict`: masks and objects as images, classes as a table."""

import argparse

from tailcut.cli.parser import (
    Commands,
    add_command,
    add_dense,
    add_device,
    add_level,
    add_max_input_pixels,
    add_reading,
    seed,
)
from tailcut.errors import ArgumentError
from tailcut.printing import Report


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "predict",
        summary="run a file on images, or generate images",
        description="Run a .tailcut file on images. Classes are printed as a table (and written to "
        "DIR/predictions.json), masks are written as PNG in the size of their image, objects are printed and drawn on "
        "the images. A generative network takes no images, and writes DIR/samples.png.",
        example="  tailcut predict zoo:lenet5-776 digit.png\n"
        "  tailcut predict unet.tailcut car1.jpg car2.jpg -o masks\n"
        "  tailcut predict vae.tailcut -o digits --num-samples 100 --seed 1",
        run=run,
    )
    parser.add_argument("file", metavar="FILE", help="a .tailcut file or zoo:NAME")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="PNG or JPEG files")
    parser.add_argument("-o", "--out", metavar="DIR", help="folder for the results; masks need it")
    parser.add_argument(
        "--least-score",
        type=float,
        metavar="P",
        help="detectors: leave out objects with a lower score, 0 to 1 (default: 0.5)",
    )
    parser.add_argument(
        "--num-samples", type=int, metavar="N", help="generative networks: images to generate (default: 64)"
    )
    parser.add_argument(
        "--seed", type=seed, metavar="N", help="generative networks: seed of the random codes (default: 0)"
    )
    parser.add_argument(
        "--invert",
        action="store_true",
        help="invert the pixels: for dark digits on light paper (MNIST is light on dark)",
    )
    add_reading(parser)
    add_device(parser)
    add_dense(parser)
    add_max_input_pixels(parser)
    add_level(parser)


def run(arguments: argparse.Namespace) -> Report:
    from tailcut.evaluation.files import task_of_file
    from tailcut.tasks.prediction.predict import predict_file
    from tailcut.tasks.prediction.predict_detection import LEAST_SCORE, predict_objects_file

    task = task_of_file(arguments.file, arguments.level)
    if task == "generation":
        return _sample(arguments)
    if arguments.num_samples is not None or arguments.seed is not None:
        raise ArgumentError("--num-samples and --seed are for networks that make images; this network makes none")
    if not arguments.images:
        raise ArgumentError("name at least one image (PNG or JPEG)")
    if task == "detection":
        if arguments.invert:
            raise ArgumentError("--invert is for digits; a detector takes photos as they are")
        return predict_objects_file(
            arguments.file,
            arguments.images,
            arguments.out,
            least_score=LEAST_SCORE if arguments.least_score is None else arguments.least_score,
            device=arguments.device,
            max_input_pixels=arguments.max_input_pixels,
            level=arguments.level,
        )
    if arguments.least_score is not None:
        raise ArgumentError("--least-score is for detectors; this network finds no objects")
    return predict_file(
        arguments.file,
        arguments.images,
        arguments.out,
        device=arguments.device,
        invert=arguments.invert,
        dense=arguments.dense,
        max_input_pixels=arguments.max_input_pixels,
        level=arguments.level,
    )


def _sample(arguments: argparse.Namespace) -> Report:
    from tailcut.tasks.prediction.sample import NUM_SAMPLES, sample_file

    if arguments.images or arguments.invert or arguments.least_score is not None:
        raise ArgumentError("this network makes images: leave out IMAGE, --invert and --least-score")
    if arguments.out is None:
        raise ArgumentError("this network makes images; name a folder for them (-o DIR)")
    return sample_file(
        arguments.file,
        arguments.out,
        num_samples=NUM_SAMPLES if arguments.num_samples is None else arguments.num_samples,
        seed=arguments.seed or 0,
        device=arguments.device,
        dense=arguments.dense,
        level=arguments.level,
    )
