"""Training steps of the recipes' networks on a GPU: launched kernel by kernel, and replayed as a CUDA graph.

`python -m bench.cuda_graph [FILE]` makes the table of `python -m bench cuda_graph` without the peers that other topics
need: a machine with a GPU may have little else than torch.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from bench.machine import Machine
from bench.scale import FULL, Scale
from bench.tables import Row, Table, write_topic
from bench.timing import compare
from tailcut.errors import TailcutError, first_line
from tailcut.runtime.share import device_name
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.toml_files import load_recipe
from tailcut.training.setup.build import build_model, build_optimizer
from tailcut.training.trainer.cuda_graph import WARM_UP, RecordedGradients
from tailcut.weights import truncated_tensors

# The network of each is made anew: what a recipe prunes or starts from takes no part.
RECIPES = (
    "vgg16-bn-scratch",
    "resnet56",
    "vit-ref",
    "vit-928478",
    "vit-157848-float16",
    "resnet18-12058",
    "alexnet-57364",
    "googlenet-scratch",
)
IMAGES = 50_000  # of CIFAR-10
SIDES = (3, 32, 32)  # of an image
SHARE = 0.05  # of the scale's seconds, for each network
COLUMNS = {
    "recipe": "",
    "batch": "d",
    "coefficients": ",d",
    "launched ms": ".2f",
    "replayed ms": ".2f",
    "times faster": ".2f",
    "epoch s": ".1f",
    "apart": ".1e",
}


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Measure the steps; without a CUDA device there is one empty table."""
    if not torch.cuda.is_available():
        return [Table("Training steps as CUDA graphs", {"recipe": ""}, [], ["Left out: this needs a CUDA device."])]
    return [steps_table(scale, torch.device("cuda"))]


def steps_table(scale: Scale, device: torch.device) -> Table:
    """Measure the steps on a device; on one without CUDA nothing is replayed."""
    torch.manual_seed(0)
    rows: list[Row] = []
    failures = []
    for name in RECIPES:
        try:
            rows.append(_row(name, scale, device))
        except (RuntimeError, TailcutError) as error:  # one failure shall not cost all others
            failures.append(f"Left out: {name}: {type(error).__name__}: {first_line(error)}")
    notes = [
        "Forward, backward and optimiser of each recipe, in its precision, on one batch of random images on the "
        f"device; the optimiser is launched in both. epoch: of {IMAGES:,} images, replayed. apart: the replayed "
        "gradients from the launched ones, over the largest, with the same random numbers.",
        *failures,
    ]
    return Table(f"Training steps on {device_name(device)}, torch {torch.__version__}", COLUMNS, rows, notes)


@dataclass(frozen=True)
class Steps:
    """The steps of a recipe's network on one batch.

    Attributes:
        recipe: gives its settings.
        model: the network, in training mode.
        batch: images, classes and places, on the device.
    """

    recipe: Recipe
    model: nn.Module
    batch: tuple[Tensor, Tensor, Tensor]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those that are trained."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def gradients(self, images: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        """Add the gradients of a batch to those of the parameters. Return its loss."""
        del places
        reduced = self.recipe.training.precision == "bf16"
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=reduced):
            outputs = self.model(images)
        loss = cross_entropy(outputs.float(), targets)
        loss.backward()
        return loss.detach()

    def launched(self) -> Tensor:
        """Compute the gradients of the batch as ever. Return its loss."""
        for parameter in self.parameters:
            parameter.grad = None
        return self.gradients(*self.batch)

    def stepping(self, compute: Callable[[], Tensor]) -> Callable[[], None]:
        """Return a whole step, which waits for the device as a training does."""
        optimizer = build_optimizer(self.recipe.optimizer, self.model)
        limit = self.recipe.optimizer.clip_norm

        def step() -> None:
            loss = compute()
            if limit is not None:
                clip_grad_norm_(self.parameters, limit)
            optimizer.step()
            loss.item()

        return step


def _row(name: str, scale: Scale, device: torch.device) -> Row:
    steps = steps_of(name, device, SIDES)
    candidates = {"launched": steps.stepping(steps.launched)}
    apart = None
    if device.type == "cuda":
        recorded = RecordedGradients(steps.gradients, steps.parameters, device)
        for _ in range(WARM_UP):
            recorded(*steps.batch)
        apart = _apart(steps, recorded)
        candidates["replayed"] = steps.stepping(lambda: recorded(*steps.batch))
    times = {key: 1e3 * timing.median_s for key, timing in compare(candidates, scale, share=SHARE).items()}
    replayed, batch = times.get("replayed"), len(steps.batch[0])
    return {
        "recipe": name,
        "batch": batch,
        "coefficients": sum(tensor.num_kept for tensor in truncated_tensors(steps.model)),
        "launched ms": times["launched"],
        "replayed ms": replayed,
        "times faster": None if replayed is None else times["launched"] / replayed,
        "epoch s": None if replayed is None else replayed * (IMAGES // batch) / 1e3,
        "apart": apart,
    }


def steps_of(name: str, device: torch.device, sides: tuple[int, int, int]) -> Steps:
    """Return the steps of a recipe's network on random images with these sides: channels, height, width."""
    recipe = load_recipe(name)
    if recipe.regularization is not None and recipe.regularization.initialization == "lsuv":
        initialization = recipe.regularization.model_copy(update={"initialization": "he"})  # without images
        recipe = recipe.model_copy(update={"regularization": initialization})
    model = build_model(recipe).to(device).train()
    size = recipe.data.batch_size
    images = torch.rand(size, *sides, device=device)
    if recipe.training.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(10, (size,), device=device)
    return Steps(recipe, model, (images, targets, torch.arange(size, device=device)))


def _apart(steps: Steps, recorded: RecordedGradients) -> float:
    """Return how far the replayed gradients are from the launched ones, over the largest of these."""
    found = []
    for compute in (steps.launched, lambda: recorded(*steps.batch)):
        recorded(*steps.batch)  # what comes before is the same for both
        torch.manual_seed(0)
        compute()
        found.append([torch.zeros(1) if p.grad is None else p.grad.clone() for p in steps.parameters])
    launched, replayed = found
    largest = max(float(gradient.abs().max()) for gradient in launched)
    return max(float((a - b).abs().max()) for a, b in zip(launched, replayed, strict=True)) / largest


def main(arguments: list[str]) -> int:
    """Print the table; write it to a JSON file if one is named. Without a CUDA device, say so and return 1."""
    if not torch.cuda.is_available():
        print("python -m bench.cuda_graph needs a CUDA device", file=sys.stderr)
        return 1
    start = time.perf_counter()
    table = steps_table(FULL, torch.device("cuda"))
    print(table, f"\n{time.perf_counter() - start:.0f} s")
    if arguments:
        write_topic(arguments[0], "full", "cuda_graph", [table])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
