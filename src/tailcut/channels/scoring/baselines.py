"""Baseline channel scores for comparison: from weights, batch norm, feature maps, and random ones.

| method     | importance of a channel                                      | source                                   |
|------------|--------------------------------------------------------------|------------------------------------------|
| `l1`       | L1 norm of its filter                                        | Li et al. 2017, Pruning Filters          |
| `l2`       | L2 norm of its filter                                        | the same, as usual later                 |
| `fpgm`     | sum of the distances of its filter to the layer's others     | He et al. 2019, FPGM                     |
| `bn_scale` | size of the scale of the batch norm behind it                | Liu et al. 2017, Network Slimming        |
| `apoz`     | part of its map that is not zero, mean over images         | Hu et al. 2016, Network Trimming         |
| `hrank`    | rank of its map, mean over images                          | Lin et al. 2020, HRank                   |
| `random`   | a random number                                              |                                          |
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from tailcut.arguments import check_seed
from tailcut.channels.layer_kinds import Dense, layer_kind
from tailcut.channels.scoring.feature_maps import follow_maps, num_channels
from tailcut.errors import StructureError
from tailcut.model_inputs import ModelInputs
from tailcut.running import forward
from tailcut.transform.exact import exact, where_exact


def filters(layer: nn.Module) -> Tensor:
    """Return the weights of each output channel of a convolution or a linear layer: float64 (channels, numbers).

    Of a regularised layer they are those that its coefficients give. Biases are left out.
    """
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        raise StructureError(f"{type(layer).__name__} has no weight")
    if isinstance(layer, _ConvTransposeNd):
        # (in, out / groups, ...): the channels of a group come from the inputs of that group.
        num_in, num_out = layer.in_channels // layer.groups, layer.out_channels // layer.groups
        grouped = weight.reshape(layer.groups, num_in, num_out, -1).transpose(1, 2)
        return exact(grouped.reshape(layer.out_channels, -1))
    kind = layer_kind(layer)
    is_turned = isinstance(kind, Dense) and kind.output_axis == 1
    return exact(weight.T if is_turned else weight.flatten(1))


def l1_norms(layer: nn.Module) -> Tensor:
    """Return the L1 norm of each filter, float64 (channels,)."""
    return filters(layer).abs().sum(dim=1).cpu()


def l2_norms(layer: nn.Module) -> Tensor:
    """Return the L2 norm of each filter, float64 (channels,)."""
    norms: Tensor = torch.linalg.vector_norm(filters(layer), dim=1)
    return norms.cpu()


def median_distances(layer: nn.Module) -> Tensor:
    """FPGM: the sum of the Euclidean distances of each filter to all others of its layer, float64 (channels,)."""
    rows = filters(layer)
    # The faster way, by a matrix product, loses small distances to rounding.
    distances: Tensor = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(dim=1)
    return distances.cpu()


def nonzero_ratios(maps: Tensor) -> tuple[Tensor]:
    """Return one minus ApoZ: the part of each map that is not zero, float64 (batch, channels). NaN stays NaN."""
    ratio = exact(maps != 0).mean(dim=(2, 3))
    is_unknown = maps.isnan().any(dim=3).any(dim=2)
    return (torch.where(is_unknown.to(ratio.device), torch.nan, ratio),)


def map_ranks(maps: Tensor) -> tuple[Tensor]:
    """HRank: the rank of each map, float64 (batch, channels). NaN where a map holds NaN or infinity.

    Singular values up to the largest times the longer side times the type's precision count as 0, as in NumPy.
    """
    maps = where_exact(maps)
    is_finite = maps.isfinite().all(dim=3).all(dim=2)
    known = torch.where(is_finite[..., None, None], maps, 0)
    known = known if maps.dtype == torch.float64 else known.float()
    ranks = torch.linalg.matrix_rank(known).double()
    return (torch.where(is_finite, ranks, torch.nan),)


WEIGHT_MEASURES: Mapping[str, Callable[[nn.Module], Tensor]] = {
    "l1": l1_norms,
    "l2": l2_norms,
    "fpgm": median_distances,
}
MAP_MEASURES: Mapping[str, Callable[[Tensor], tuple[Tensor]]] = {"apoz": nonzero_ratios, "hrank": map_ranks}


def random_importance(layers: Mapping[str, nn.Module], seed: int) -> dict[str, Tensor]:
    """Random numbers in 0..1 for each layer, float64 (channels,): the same for the same seed and layers."""
    noise = torch.Generator().manual_seed(check_seed(seed))
    return {
        name: torch.rand(num_channels(layer), generator=noise, dtype=torch.float64, device="cpu")
        for name, layer in layers.items()
    }


def norm_scales(
    model: nn.Module, layers: Mapping[str, nn.Module], inputs: ModelInputs
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the absolute scales of the batch norm behind each layer; the model is not changed.

    Args:
        model: the network; one forward shows which batch norm follows which layer.
        layers: name -> layer.
        inputs: one batch.

    Returns:
        Layer name -> float64 (channels,), and layer name -> reason for those that have none.

    Raises:
        ArgumentError: the network does not run on the batch.
    """
    found: dict[str, Tensor] = {}
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.affine]
    with follow_maps(layers, lambda names, maps: None) as follower:

        def see(norm: nn.Module, arguments: tuple[Any, ...]) -> None:
            if isinstance(norm.weight, Tensor) and arguments:
                for name, start, size in follower.parts_of(arguments[0]):
                    found.setdefault(name, norm.weight.detach()[start : start + size].abs().cpu().double())

        with ExitStack() as hooks:
            for norm in norms:
                hooks.enter_context(norm.register_forward_pre_hook(see))
            forward(model, inputs)
    left = {name: "no batch norm with a scale follows it" for name in layers if name not in found}
    return {name: found[name] for name in layers if name in found}, left
