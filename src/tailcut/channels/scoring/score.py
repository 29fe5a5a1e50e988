"""`score`: the importance of each channel of each layer, by the paper's score or a baseline."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from typing import Literal

import torch
from torch import Tensor, nn

from tailcut.channels.layer_kinds import is_dense
from tailcut.channels.scoring.baselines import MAP_MEASURES, WEIGHT_MEASURES, norm_scales, random_importance
from tailcut.channels.scoring.feature_maps import as_maps, channel_axis, follow_maps, has_maps, is_tokens, num_channels
from tailcut.channels.scoring.formulas import COMPONENTS, Component, Formula, MapParts, Variant, map_parts
from tailcut.channels.scoring.forward import check_num_batches, inputs_of, undisturbed
from tailcut.channels.scoring.scores import Scores, formula_settings
from tailcut.errors import ArgumentError, StructureError
from tailcut.model_inputs import Choose, Loader, ModelInputs
from tailcut.running import forward, in_process_group
from tailcut.structure.views import check_initialized, unwrapped

Method = Literal["spectral", "l1", "l2", "fpgm", "apoz", "bn_scale", "hrank", "random"]
Measure = Callable[[Tensor], tuple[Tensor, ...]]

SPECTRAL, NORM_SCALE, RANDOM = "spectral", "bn_scale", "random"
NUM_BATCHES = 5  # the published code's, of 128 images
METHODS = (SPECTRAL, *WEIGHT_MEASURES, *MAP_MEASURES, NORM_SCALE, RANDOM)


def score(
    model: nn.Module,
    loader: Loader | None = None,
    *,
    method: Method = "spectral",
    num_batches: int | None = NUM_BATCHES,
    variant: Variant = "paper",
    block_size: int | Literal["whole", "variant"] = "variant",
    gaussian_sigma: float | Literal["variant"] | None = "variant",
    spatial_weight: float = 0.03,
    components: Component | Sequence[Component] = COMPONENTS,
    layers: Sequence[str] | None = None,
    inputs: Choose | None = None,
    seed: int = 0,
    all_processes: bool = True,
) -> Scores:
    """Return the importance of each output channel of a network's layers. The model is not changed.

    The network runs in evaluation mode, without gradients, once per batch; all layers are scored in that pass, and
    memory does not grow with the number of batches. `tailcut.channels.scoring.feature_maps` says which map belongs to a
    layer. The same batches give the same scores. Where torch.distributed is initialised, each process calls this with
    batches of its own, and all get the means over all of them.

    Args:
        model: any network of convolutions, or of linear layers over sequences of tokens (vision transformers, mixers).
        loader: yields inputs, or tuples or lists that begin with them: (batch, ...); inputs by name are dicts. A tensor
            or a dict is one batch. They are moved to the model's device. Only the methods of weights (`l1`, `l2`,
            `fpgm`, `random`) do without; given one, they use one batch to see which linear layers give tokens.
        method: `spectral` (CFDP, the paper's), or a baseline of `tailcut.channels.scoring.baselines`: `l1`, `l2`,
            `fpgm`, `apoz`, `bn_scale` (uses one batch, to see which batch norm follows which layer), `hrank`, `random`.
        num_batches: how many batches of the loader are used at most; all when None.
        variant: `paper` or `published` (the authors' code); see `Formula`, as for the following four.
        block_size: side of the blocks of the DCT, "whole" for one per map; "variant" is 4, for `published` 2.
        gaussian_sigma: of the Gaussian filter, None for none; "variant" is 1, for `published` 10.
        spatial_weight: lambda of equation 12.
        components: parts of the score that count, of `spectral`, `dist` and `spatial`. These five are settings of the
            method `spectral`; the others take none.
        layers: names of the layers to score, convolutions or linear layers. When None every convolution, and every
            linear layer whose output in the forward is a sequence of tokens (batch, tokens ..., features); those of
            (batch, features), as classifiers are, are scored by name only, as all linear layers are for `bn_scale`.
        inputs: what the network takes of a batch, a tensor, a tuple of tensors, or a dict of tensors by name:
            `lambda batch: (batch[0], batch[1])` for a network of two inputs; the batch itself, or its first entry, when
            None.
        seed: for `random`.
        all_processes: False scores by this process's batches alone, where only one of several calls this.

    Returns:
        Layer name -> float64 (channels,), for `spectral` with the means of the parts. Linear layers that were not
        named are its `fallback`: for `prune` they count only where channels have no other scores.

    Raises:
        ArgumentError: the loader gives no batch, or something else than batches, or some that the network does not run
            on; or an argument is out of range.
        StructureError: there is nothing to score, or no layer of a given name; or a map holds NaN or infinity.
    """
    formula = Formula(variant, block_size, gaussian_sigma, spatial_weight, components)
    if needs_loader(method) and loader is None:
        raise ArgumentError(f"the method {method} runs the network: give a loader that yields inputs")
    if method != SPECTRAL:
        _check_no_formula(method, formula)
    check_num_batches(num_batches)
    network = unwrapped(model)
    check_initialized(network)
    chosen = _all_layers(network) if layers is None else _named_layers(network, layers)
    unnamed = frozenset(name for name, layer in chosen.items() if layers is None and is_dense(layer))
    if loader is not None and (method == SPECTRAL or method in MAP_MEASURES):
        batches = inputs_of(loader, num_batches, network, inputs)
        return _score_maps(network, chosen, unnamed, batches, method, formula, all_processes)
    one = None if loader is None else next(inputs_of(loader, 1, network, inputs), None)
    # What batch norm scales are its channels on axis 1, which are no tokens' features.
    tokens = _token_layers(network, {name: chosen[name] for name in unnamed if method != NORM_SCALE}, one)
    chosen = {name: layer for name, layer in chosen.items() if name in tokens or name not in unnamed}
    if not chosen:
        raise _nothing_to_score(network)
    if method == NORM_SCALE:
        return _score_norms(network, chosen, one)
    if method == RANDOM:
        importance, settings = random_importance(chosen, seed), {"seed": seed}
    else:
        with torch.no_grad():
            importance, settings = {name: WEIGHT_MEASURES[method](layer) for name, layer in chosen.items()}, {}
    return Scores(importance, method=method, settings=settings, fallback=[name for name in chosen if name in tokens])


def needs_loader(method: str) -> bool:
    """Return whether a method runs the network, and does not look at weights only.

    Raises:
        ArgumentError: there is no such method.
    """
    if method not in METHODS:
        raise ArgumentError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    return method != RANDOM and method not in WEIGHT_MEASURES


def _check_no_formula(method: str, formula: Formula) -> None:
    """Raise `ArgumentError` for settings that this method does not have."""
    default = replace(Formula(formula.variant), variant=Formula.variant)
    names = [field.name for field in fields(formula)]
    given = [name for name in names if getattr(formula, name) != getattr(default, name)]
    if given:
        raise ArgumentError(
            f"the method {method} has no {', '.join(given)}: only the method {SPECTRAL} has; leave it out"
        )


def _all_layers(model: nn.Module) -> dict[str, nn.Module]:
    chosen: dict[str, nn.Module] = {name: module for name, module in model.named_modules() if has_maps(module)}
    if not chosen:
        raise _nothing_to_score(model)
    return chosen


def _nothing_to_score(model: nn.Module) -> StructureError:
    linear = [name for name, module in model.named_modules() if is_dense(module)]
    what = "no convolution, and no linear layer that was seen to give tokens" if linear else "no convolution"
    hint = f"; its linear layers can be named: score(layers={linear[:2]!r})" if linear else ""
    return StructureError(f"{type(model).__name__} has {what}: there are no feature maps to score{hint}")


def _token_layers(model: nn.Module, layers: Mapping[str, nn.Module], batch: ModelInputs | None) -> frozenset[str]:
    """Names of those linear layers whose output, in one forward, is a sequence of tokens; none without a batch."""
    found: set[str] = set()
    if not layers or batch is None:
        return frozenset()

    def see(name: str, output: object) -> None:
        if isinstance(output, Tensor) and is_tokens(output):
            found.add(name)

    with ExitStack() as hooks, torch.no_grad(), undisturbed(model):
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_hook(lambda _, __, output, name=name: see(name, output)))
        forward(model, batch)
    return frozenset(found)


def _named_layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    wanted = (names,) if isinstance(names, str) else tuple(names)
    for name in wanted:
        if name not in modules or not has_maps(modules[name]):
            found = type(modules[name]).__name__ if name in modules else "nothing"
            raise StructureError(f"expected a convolution or a linear layer named {name!r}, found {found}")
    if not wanted:
        raise ArgumentError("layers names no layer; None scores every convolution, and linear layers over tokens")
    return {name: module for name, module in modules.items() if name in wanted}


def _score_maps(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    unnamed: frozenset[str],
    batches: Iterable[ModelInputs],
    method: str,
    formula: Formula,
    all_processes: bool,
) -> Scores:
    is_spectral = method == SPECTRAL
    measure: Measure = (lambda maps: map_parts(maps, formula)) if is_spectral else MAP_MEASURES[method]
    means = _Means(layers, len(MapParts._fields) if is_spectral else 1)
    axes = {name: channel_axis(layer) for name, layer in layers.items()}

    def take(names: tuple[str, ...], output: Tensor) -> None:
        columns = measure(as_maps(output, axes[names[0]]))
        for name in names:
            means.add(name, columns)

    with torch.no_grad(), undisturbed(model), follow_maps(layers, take, only_tokens=unnamed) as follower:
        for batch in batches:
            forward(model, batch)
            follower.finish()
            means.num_images += batch.batch_size
    if all_processes:
        means.add_up_processes(model)
    found, skipped = means.finish(model, unnamed)
    parts = {name: MapParts(*columns) for name, columns in found.items()} if is_spectral else {}
    return Scores(
        {name: formula.combine(*parts[name]) if is_spectral else columns[0] for name, columns in found.items()},
        method=method,
        settings=formula_settings(formula) if is_spectral else {},
        num_images=means.num_images,
        parts=parts,
        skipped=skipped,
        fallback=[name for name in found if name in unnamed],
    )


class _Means:
    """Sums of what is measured of each layer's maps, and how many there were; in float64, on the CPU."""

    def __init__(self, layers: Mapping[str, nn.Module], num_columns: int) -> None:
        self.num_images = 0
        widths = {name: num_channels(layer) for name, layer in layers.items()}
        self._sums = {
            name: torch.zeros(num_columns, width, dtype=torch.float64, device="cpu") for name, width in widths.items()
        }
        self._counts = dict.fromkeys(layers, 0)

    def add(self, name: str, columns: Sequence[Tensor]) -> None:
        """Columns float64 (maps, channels) of one layer."""
        self._sums[name] += torch.stack([column.sum(dim=0) for column in columns]).cpu()
        self._counts[name] += len(columns[0])

    def finish(self, model: nn.Module, unnamed: frozenset[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the means by layer, (columns, channels), and the layers that gave no map.

        Linear layers that nobody named and that gave no tokens are in neither.
        """
        if self.num_images == 0:
            raise ArgumentError("the loader gave no batch: there is nothing to score by")
        found, skipped = {}, {}
        for name, sums in self._sums.items():
            if self._counts[name] == 0 and name in unnamed:
                continue
            if self._counts[name] == 0:
                skipped[name] = "it did not run in the forward, or not as a module"
            elif not bool(torch.isfinite(sums).all()):
                raise StructureError(
                    f"the feature maps of layer {name} hold NaN or infinity; check the weights up to it and the inputs"
                )
            else:
                found[name] = sums / self._counts[name]
        if not found and not skipped:
            raise _nothing_to_score(model)
        if not found:
            raise StructureError("no layer gave feature maps: none of the layers to score ran as a module")
        return found, skipped

    def add_up_processes(self, model: nn.Module) -> None:
        """Make the sums those of all processes of `torch.distributed`, which must all call this."""
        if not in_process_group():
            return
        counts = torch.tensor([self.num_images, *self._counts.values()], dtype=torch.float64, device="cpu")
        pieces = [counts, *(sums.flatten() for sums in self._sums.values())]
        tensor = next(model.parameters(), counts)
        # NCCL adds only what lies on the GPU; Gloo takes the CPU too.
        packed = torch.cat(pieces).to(tensor.device if tensor.is_cuda else "cpu")
        torch.distributed.all_reduce(packed)
        counts, *parts = packed.cpu().split([piece.numel() for piece in pieces])
        self.num_images = int(counts[0])
        self._counts = dict(zip(self._counts, map(int, counts[1:]), strict=True))
        self._sums = {name: part.view(sums.shape) for (name, sums), part in zip(self._sums.items(), parts, strict=True)}


def _score_norms(model: nn.Module, layers: Mapping[str, nn.Module], inputs: ModelInputs | None) -> Scores:
    if inputs is None:
        raise ArgumentError("the loader gave no batch: there is nothing to see the order of the layers by")
    with torch.no_grad(), undisturbed(model):
        importance, skipped = norm_scales(model, layers, inputs)
    if not importance:
        raise StructureError("no batch norm with a scale follows any of the layers: the method bn_scale has no score")
    return Scores(importance, method=NORM_SCALE, skipped=skipped)
