"""Scoring channels: products against loops, what a pass over a network costs; and pruning whole networks."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from bench import pruning
from bench.machine import Machine
from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import compare
from tailcut.channels import Formula, map_scores, score
from tailcut.channels.scoring.blocks import BlockTransform
from tailcut.structure import create_model

SIZES = (32, 16, 8, 4)
VARIANTS = ("published", "paper")
# The loops are timed on a few maps; more would only take longer.
MAPS_FOR_LOOPS = 4
SPATIAL_WEIGHT = 0.03


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Measure maps of several sizes by both formulas, whole networks, and their pruning."""
    torch.manual_seed(0)
    return [_maps(scale, machine), _networks(scale), pruning.table(scale)]


def published_loops(maps: np.ndarray) -> np.ndarray:
    """Return the score as the authors' code computes it, block by block, map by map: (num, size, size) to (num,)."""
    scores = np.empty(len(maps))
    for number, one in enumerate(maps):
        size = len(one)
        side = min(2, size)
        coefficients = np.zeros_like(one)
        for top in range(0, size - side + 1, side):
            for left in range(0, size - side + 1, side):
                block = one[top : top + side, left : left + side]
                coefficients[top : top + side, left : left + side] = gaussian_filter(
                    dctn(block, norm="ortho"), sigma=10
                )
        dist = (coefficients > np.mean(coefficients)).sum() / size**2
        scores[number] = np.linalg.norm(coefficients) * dist + SPATIAL_WEIGHT * np.linalg.norm(one)
    return scores


def paper_loops(maps: np.ndarray) -> np.ndarray:
    """Return the paper's score in the same manner: one filter per map, and a transform per block of 4."""
    scores = np.empty(len(maps))
    for number, one in enumerate(maps):
        smooth = gaussian_filter(one, sigma=1)
        coefficients = np.empty_like(one)
        for top in range(0, len(one), 4):
            for left in range(0, len(one), 4):
                coefficients[top : top + 4, left : left + 4] = dctn(smooth[top : top + 4, left : left + 4]) / 4
        dist = (coefficients >= np.mean(coefficients)).mean()
        scores[number] = np.linalg.norm(coefficients) * dist + SPATIAL_WEIGHT * np.linalg.norm(one)
    return scores


LOOPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"published": published_loops, "paper": paper_loops}


def check_agreement(size: int, variant: str) -> None:
    """Raise unless both ways give the same scores: a wrong answer has no speed."""
    maps = torch.randn(1, 8, size, size, dtype=torch.float64)
    ours = map_scores(maps, Formula(variant))[0]  # type: ignore[arg-type]
    torch.testing.assert_close(ours, torch.from_numpy(LOOPS[variant](maps[0].numpy())), rtol=1e-9, atol=1e-12)


def _maps(scale: Scale, machine: Machine) -> Table:
    rows: list[Row] = []
    for size in SIZES:
        num = max(MAPS_FOR_LOOPS, scale.limit_bytes // 4 // (4 * size * size))
        # As a layer after ReLU gives them.
        maps = torch.randn(num, 1, size, size).relu_()
        few = maps[:MAPS_FOR_LOOPS, 0].numpy()
        for variant in VARIANTS:
            check_agreement(size, variant)
            rows.append(_row(maps, few, variant, scale, machine))
    columns = {
        "map": "",
        "formula": "",
        "loops us": ".1f",
        "tailcut us": ".3f",
        "loops / tailcut": ".0f",
        "maps/s": ",.0f",
        "one pass over memory us": ".3f",
        "products us": ".3f",
        "of limit %": ".0f",
    }
    notes = [
        "Per map of float32. loops: SciPy's transform and filter block by block, as the published code has them; for "
        "the paper's formula one filter per map, and a transform per block.",
        "one pass over memory: the map's bytes at this machine's rate of copying. products: the operations of ours at "
        "this machine's rate of large matrix products. limit: the larger of the two.",
    ]
    return Table("Scores of feature maps", columns, rows, notes)


def _row(maps: torch.Tensor, few: np.ndarray, variant: str, scale: Scale, machine: Machine) -> Row:
    size = maps.shape[-1]
    formula = Formula(variant)  # type: ignore[arg-type]
    timings = compare(
        {"tailcut": lambda: map_scores(maps, formula), "loops": lambda: LOOPS[variant](few)}, scale, share=0.1
    )
    ours, loops = timings["tailcut"].median_s / len(maps), timings["loops"].median_s / len(few)
    memory = 4 * size * size / machine.copy_rate
    products = num_operations(size, formula) / machine.product_rate
    return {
        "map": f"{size} x {size}",
        "formula": variant,
        "loops us": 1e6 * loops,
        "tailcut us": 1e6 * ours,
        "loops / tailcut": loops / ours,
        "maps/s": 1 / ours,
        "one pass over memory us": 1e6 * memory,
        "products us": 1e6 * products,
        "of limit %": 100 * max(memory, products) / ours,
    }


def num_operations(size: int, formula: Formula) -> int:
    """Floating-point operations of the products that transform one square map."""
    transform = BlockTransform(size, size, formula.blocks, torch.float32, torch.device("cpu"))
    if transform.is_whole:
        return 2 * transform.rows[0].content.numel()
    across = sum(2 * size * tile.content.numel() for tile in transform.columns)
    return across + sum(2 * transform.columns[-1].last * tile.content.numel() for tile in transform.rows)


def _networks(scale: Scale) -> Table:
    rows: list[Row] = []
    for name in ("resnet20",) if scale.is_tiny else ("resnet20", "vgg16_bn_cifar"):
        model = create_model(name, **({"width": 4} if scale.is_tiny else {})).eval()
        x = torch.rand(2 if scale.is_tiny else 32, 3, 32, 32)

        def forward(model: torch.nn.Module = model, x: torch.Tensor = x) -> object:
            with torch.no_grad():
                return model(x)

        def scores(model: torch.nn.Module = model, x: torch.Tensor = x) -> object:
            return score(model, [x])

        timings = compare({"forward": forward, "score": scores}, scale, share=0.2)
        plain, whole = timings["forward"].median_s, timings["score"].median_s
        found = score(model, [x])
        rows.append(
            {
                "network": name,
                "images": len(x),
                "layers": len(found),
                "forward ms": 1e3 * plain,
                "forward and scores ms": 1e3 * whole,
                "of forward": whole / plain,
            }
        )
    columns = {
        "network": "",
        "images": "d",
        "layers": "d",
        "forward ms": ".1f",
        "forward and scores ms": ".1f",
        "of forward": ".2f",
    }
    return Table("A scoring pass over all layers of a network", columns, rows, ["Images of 32 x 32, one batch."])
