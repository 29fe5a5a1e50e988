"""`tailcut pack`: from a run, a checkpoint or plain weights to a .tailcut file."""

from tailcut.cli.parser import (
    QUANTIZED,
    Commands,
    add_command,
    add_dtypes,
    add_levels,
    add_model_arguments,
    num_bytes,
)


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "pack",
        summary="pack a run, a checkpoint or plain weights into a file",
        description="Pack a run folder's newest checkpoint, one checkpoint file of a run, another .tailcut file, or "
        "the state_dict of a registered model (a .pt or .safetensors file, with --model) into a .tailcut file.",
        example="  tailcut pack runs/a -o a.tailcut --dtype float16\n"
        "  tailcut pack weights.pt --model lenet5 --set-argument bias=false --keep-ratio 0.05 "
        "-o lenet5.tailcut",
        run="tailcut.tasks.pack:pack",
    )
    parser.add_argument(
        "source", metavar="RUN|CHECKPOINT|FILE", help="a run folder, a checkpoint, a .tailcut file, plain weights"
    )
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="the .tailcut file to write")
    add_dtypes(parser, more=(QUANTIZED,))
    parser.add_argument(
        "--max-bytes", type=num_bytes, metavar="SIZE", help="quantise the numbers, as finely as this size allows"
    )
    parser.add_argument(
        "--step",
        type=float,
        metavar="S",
        help="quantise the numbers, to steps of S times each tensor's root mean square (0.25)",
    )
    add_levels(parser)
    parser.add_argument("--model", metavar="NAME", help="the registered model that plain weights belong to")
    add_model_arguments(parser, "an argument of that model")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--keep-ratio",
        type=float,
        metavar="R",
        help="part of each tensor of plain weights to keep (default: all)",
    )
    amount.add_argument(
        "--plain",
        action="store_true",
        help="store plain weights as they are, without coefficients: prune needs such files",
    )
    amount.add_argument(
        "--num-kept", type=int, metavar="N", help="coefficients of each tensor of plain weights to keep"
    )
