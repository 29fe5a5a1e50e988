"""Pruning whole networks: `tailcut.prune` beside Torch-Pruning, and what each leaves."""

import collections
import copy
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch_pruning  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import CLOCKS
from tailcut.channels import PruneReport, prune
from tailcut.channels.scoring.feature_maps import num_channels
from tailcut.errors import first_line

RATE = 0.25
MAX_ROUNDS = 3

# Module -> its networks: name and arguments, and the side of their inputs. Weights are random.
NETWORKS: dict[str, list[tuple[str, dict[str, Any], int]]] = {
    "torchvision.models": [
        ("resnet18", {}, 224),
        ("resnet50", {}, 224),
        ("vgg16_bn", {}, 224),
        ("mobilenet_v2", {}, 224),
        ("densenet121", {}, 224),
        ("shufflenet_v2_x1_0", {}, 224),
        ("squeezenet1_1", {}, 224),
        ("mnasnet1_0", {}, 224),
        ("googlenet", {"init_weights": False}, 224),
        ("inception_v3", {"init_weights": False}, 299),
    ],
    "timm": [
        ("efficientnet_b0", {"drop_path_rate": 0.2}, 224),
        ("mobilenetv3_large_100", {}, 224),
        ("regnety_008", {}, 224),
        ("ghostnet_100", {}, 224),
        ("res2net50_26w_4s", {}, 224),
        ("convnext_tiny", {"drop_path_rate": 0.1}, 224),
        ("nfnet_f0", {}, 192),
        ("swin_tiny_patch4_window7_224", {"drop_path_rate": 0.1}, 224),
        ("deit_tiny_patch16_224", {}, 224),
        ("mixer_s32_224", {}, 224),
        ("mobilevit_xxs", {}, 256),
    ],
    "segmentation_models_pytorch": [
        ("Unet", {"encoder_name": "resnet18"}, 128),
        ("FPN", {"encoder_name": "resnet18"}, 128),
        ("Segformer", {"encoder_name": "mit_b0"}, 128),
        ("DeepLabV3Plus", {"encoder_name": "resnet18"}, 128),
    ],
}


def table(scale: Scale) -> Table:
    """Time, parameters left and what stayed, network by network; a library that is missing is a note."""
    num_rounds = 1 if scale.is_tiny else MAX_ROUNDS
    rows: list[Row] = []
    notes = [
        "A quarter of the channels of each group goes, by random scores; inputs one by one, processor time, the "
        f"fastest of {num_rounds} rounds in turn. Torch-Pruning: dependency graph, groups and "
        "removal. tailcut: the same, and the trial of the narrowed network, forward and backward, for its shapes.",
        "parameters: what is left. after: whether the network pruned by Torch-Pruning runs (ours always does).",
    ]
    for module, networks in NETWORKS.items():
        try:
            library = importlib.import_module(module)
        except (ImportError, RuntimeError) as error:
            notes.append(f"Left out: {module} cannot be imported ({first_line(error)}); pip install '.[bench]'.")
            continue
        for name, arguments, side in networks[:1] if scale.is_tiny else networks:
            rows.append(_row(name, _builder(library, name, arguments), 64 if scale.is_tiny else side, num_rounds))
    columns = {
        "network": "",
        "Torch-Pruning s": ".2f",
        "tailcut s": ".2f",
        "tailcut / Torch-Pruning": ".1f",
        "parameters, Torch-Pruning %": ".0f",
        "after": "",
        "parameters, tailcut %": ".0f",
        "layers pruned": "d",
        "left": "",
    }
    return Table("Pruning whole networks", columns, rows, notes)


def _builder(library: Any, name: str, arguments: dict[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        if library.__name__ == "timm":
            made = library.create_model(name, pretrained=False, **arguments)
        elif library.__name__ == "torchvision.models":
            made = getattr(library, name)(weights=None, **arguments)
        else:
            made = getattr(library, name)(encoder_weights=None, classes=3, **arguments)
        return made.eval()  # type: ignore[no-any-return]

    return build


def _row(name: str, build: Callable[[], nn.Module], side: int, rounds: int) -> Row:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dense = build()
        x = torch.rand(1, 3, side, side)
        with torch.no_grad():
            dense(x)
        seconds: dict[str, list[float]] = {"peer": [], "ours": []}
        for _ in range(rounds):
            peer, after = copy.deepcopy(dense), "runs"
            start = CLOCKS["processor"]()
            try:
                _prune_by_peer(peer, x)
            except Exception as error:  # noqa: BLE001 (whatever it raises is what the table tells)
                after = f"fails: {first_line(error)}"[:60]
            seconds["peer"].append(CLOCKS["processor"]() - start)
            ours, scores = copy.deepcopy(dense), _random_scores(dense)
            start = CLOCKS["processor"]()
            report = prune(ours, x, scores, RATE)
            seconds["ours"].append(CLOCKS["processor"]() - start)
        if after == "runs" and not _runs(peer, x):
            after = "does not run"
        if not _runs(ours, x):
            raise RuntimeError(f"{name} does not run after tailcut.prune")
    times = {key: min(values) for key, values in seconds.items()}
    whole = _size(dense)
    return {
        "network": name,
        "Torch-Pruning s": times["peer"],
        "tailcut s": times["ours"],
        "tailcut / Torch-Pruning": times["ours"] / times["peer"] if not after.startswith("fails") else None,
        "parameters, Torch-Pruning %": 100 * _size(peer) / whole,
        "after": after,
        "parameters, tailcut %": 100 * _size(ours) / whole,
        "layers pruned": sum(layer.after < layer.before for layer in report.layers),
        "left": what_is_left(report),
    }


def _prune_by_peer(model: nn.Module, x: Tensor) -> None:
    last = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
    pruner = torch_pruning.pruner.BasePruner(
        model, x, torch_pruning.importance.RandomImportance(), pruning_ratio=RATE, ignored_layers=[last]
    )
    pruner.step()


def _random_scores(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.rand(num_channels(module))
        for name, module in model.named_modules()
        if isinstance(module, (_ConvNd, nn.Linear))
    }


def _runs(model: nn.Module, x: Tensor) -> bool:
    try:
        with torch.no_grad():
            model(x)
    except Exception:  # noqa: BLE001 (whatever it raises, it does not run)
        return False
    return True


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def what_is_left(report: PruneReport) -> str:
    """Return the reasons in a report, with the number of layers of each: "12 x attention heads ...; 1 x ..."."""
    counts = collections.Counter(_without_place(part.reason) for part in report.skipped)
    return "; ".join(f"{count} x {reason}" for reason, count in counts.most_common())


def _without_place(reason: str) -> str:
    """Return a reason without the module that it names."""
    return reason.split(", in ")[0].split(": ")[0]
