"""The demo: train a small network under frequency regularisation, pack it, load it back, look at it.

`make demo` runs it on real handwritten digits that come with scikit-learn: no network connection, one CPU core, about a
minute. Where a data root (TAILCUT_DATA) holds MNIST, it trains on MNIST instead, which takes a little longer.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import nn

import tailcut
from tailcut.cli.output import messages_on_stderr
from tailcut.data import Dataset, open_dataset
from tailcut.errors import DataNotFoundError
from tailcut.evaluation import evaluate
from tailcut.runs import Run
from tailcut.tasks.export import unpack
from tailcut.training.recipe.toml_files import load_recipe
from tailcut.training.train import train
from tailcut.weights import truncated_tensors

# MNIST has forty times as many digits, so that one pass over them is enough.
FOR_MNIST = ("data.name=mnist", "data.batch_size=128", "data.augmentation.shift=0", "training.epochs=1")


def main(out: Path, overrides: Sequence[str] = ()) -> None:
    """Run the demo; all that it makes goes to the folder `out`. `overrides` change the recipe, KEY=VALUE each."""
    torch.set_num_threads(1)  # the matrices are small: a second thread would mostly wait
    recipe = load_recipe("demo/digits", [*(FOR_MNIST if mnist_is_there() else ()), *overrides])
    run = Run(out / "run")
    shutil.rmtree(run.path, ignore_errors=True)

    print(f"1. Train {recipe.model.name} on {recipe.data.name}. Its weights live as DCT coefficients, the low")
    print("   frequencies first; while it trains, the high frequencies are cut away.", flush=True)
    with messages_on_stderr():
        result = train(recipe, run.path, progress=True, command="make demo")

    print(f"\n2. What is in the packed file {run.model}:\n\n{tailcut.inspect(run.model)}\n")
    dense = unpack(run.model, out / "dense.safetensors")
    print(f"   {result.file_bytes:,} bytes. Its dense weights, as {dense.out}, take {dense.file_bytes:,} bytes.")

    print("\n3. Load the file back and test it on digits that the network has never seen.", flush=True)
    model = tailcut.load(run.model)
    test = open_dataset(recipe.data.name, recipe.data.test_split)
    print(f"   {100 * evaluate(model, test)['accuracy']:.2f} % of {len(test):,} test digits are recognised.")

    draw_corners(model, out / "corners.png")
    draw_predictions(model, test, out / "predictions.png")
    Image.fromarray((test[0][0][0] * 255).byte().numpy()).save(out / "digit.png")
    print("\n4. Images:")
    print(f"   {out / 'corners.png'}: the low frequencies that are left of each weight")
    print(f"   {out / 'predictions.png'}: test digits, and what the network says they are")
    print(f"   {run.curves}: loss, accuracy and kept coefficients over the epochs")

    tool = Path(sys.executable).with_name("tailcut")
    tool = tool.relative_to(Path.cwd()) if tool.is_relative_to(Path.cwd()) else tool
    print("\nWhat to try next:")
    print(f"   {tool} predict {run.model} {out / 'digit.png'}")
    print(f"   {tool} train demo/digits --out runs/smaller --set schedule.num_kept=100")
    print(f"   {tool} models")
    print("   docs/quick-start.md, and docs/regularize.md for a network of your own")


def mnist_is_there() -> bool:
    """Return whether a data root holds MNIST."""
    try:
        return all(len(open_dataset("mnist", split)) for split in ("train", "test"))
    except DataNotFoundError:
        return False


def draw_corners(model: nn.Module, path: Path) -> None:
    """One panel per weight: its coefficients along its two longest axes, the largest in size; white was cut."""
    tensors = truncated_tensors(model)
    figure = Figure(figsize=(3.2 * len(tensors), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, tensor in zip(figure.subplots(1, len(tensors), squeeze=False)[0], tensors, strict=True):
        by_size = sorted(range(len(tensor.shape)), key=lambda axis: -tensor.shape[axis])
        rows, columns = sorted(by_size[:2])
        corner = tensor.corner().detach().abs()
        corner = corner.amax(by_size[2:]) if by_size[2:] else corner
        seen = torch.full((tensor.shape[rows], tensor.shape[columns]), float("nan"))
        seen[: corner.shape[0], : corner.shape[1]] = corner.log10().where(corner > 0, float("nan"))
        panel.imshow(seen.numpy(), aspect="auto", interpolation="nearest")
        panel.set_title(f"{tensor.name}, {' x '.join(map(str, tensor.shape))}\n{tensor.num_kept:,} kept", fontsize=9)
        panel.set(xlabel=f"frequency along axis {columns}", ylabel=f"frequency along axis {rows}")
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    figure.savefig(path, dpi=110)


def draw_predictions(model: nn.Module, dataset: Dataset, path: Path, count: int = 10) -> None:
    """Digits from all over the data set, each with the network's answer; wrong answers in red."""
    images, targets = dataset.batch(range(0, len(dataset), max(1, len(dataset) // count))[:count])
    with torch.inference_mode():
        probabilities, classes = model(images).softmax(dim=1).max(dim=1)
    colors = ["black" if right else "red" for right in (classes == targets).tolist()]
    figure = Figure(figsize=(1.2 * len(images), 1.7), layout="constrained")
    FigureCanvasAgg(figure)
    for place, panel in enumerate(figure.subplots(1, len(images), squeeze=False)[0]):
        panel.imshow(images[place, 0].numpy(), cmap="gray")
        panel.set_title(f"{classes[place]}  ({probabilities[place]:.0%})", fontsize=10, color=colors[place])
        panel.set_axis_off()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for what the demo makes")
    main(parser.parse_args().out)
