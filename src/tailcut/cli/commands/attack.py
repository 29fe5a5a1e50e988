"""`tailcut attack`: the accuracy of networks under attack."""

import argparse

from tailcut.cli.parser import (
    Commands,
    add_command,
    add_data_roots,
    add_device,
    add_reading,
    add_workers,
    numbers,
    seed,
)
from tailcut.printing import Report


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "attack",
        summary="measure networks under adversarial attack",
        description="Measure the accuracy of classifiers under an adversarial attack: FGSM, one step along the sign of "
        "the gradient, or PGD, several smaller ones from a random start. Epsilon is the largest change of a pixel, in "
        "units of the pixel range 0..1; pixels stay within it.",
        example="  tailcut attack resnet20.tailcut slim.tailcut --data cifar10 --method pgd --steps 10 -o attack.png\n"
        "  tailcut attack zoo:lenet5-776 --data mnist --epsilon 0,0.1,0.2 --num-images 1000",
        run=run,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a .tailcut file or zoo:NAME; more to compare")
    parser.add_argument("--data", required=True, metavar="NAME", help="mnist, cifar10, digits, ...")
    parser.add_argument("--split", metavar="NAME", help="its split (default: the test split)")
    parser.add_argument("--method", choices=("fgsm", "pgd"), default="fgsm", help="the attack (default: fgsm)")
    parser.add_argument(
        "--epsilon",
        type=numbers,
        metavar="E,E,...",
        help="largest change of a pixel, 0 to 1 (default: 0,0.05,0.1,0.15,0.2,0.25,0.3)",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="steps of PGD (default: 10)")
    parser.add_argument(
        "--step-size", type=float, metavar="S", help="size of a step of PGD (default: 2.5 epsilon / steps)"
    )
    parser.add_argument("--num-images", type=int, metavar="N", help="attack the first N images only")
    parser.add_argument("-o", "--out", metavar="IMAGE", help="draw the curves as a PNG")
    add_data_roots(parser)
    add_reading(parser)
    add_workers(parser)
    parser.add_argument(
        "--batch-size", type=int, default=250, metavar="N", help="images per forward pass (default: 250)"
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of PGD's random starts (default: 0)")
    add_device(parser)


def run(arguments: argparse.Namespace) -> Report:
    from tailcut.tasks.attack import EPSILONS, AttackPlan, attack_files

    plan = AttackPlan(
        arguments.method, arguments.epsilon or EPSILONS, arguments.steps, arguments.step_size, arguments.seed
    )

    return attack_files(
        arguments.files,
        arguments.data,
        arguments.split,
        plan=plan,
        num_images=arguments.num_images,
        out=arguments.out,
        roots=arguments.roots,
        download=arguments.download,
        batch_size=arguments.batch_size,
        device=arguments.device,
    )
