"""`SpectralImportance`: Tailcut's scores as an importance for Torch-Pruning's pruners."""

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from tailcut.channels.scoring.feature_maps import has_maps, num_channels
from tailcut.channels.scoring.score import score
from tailcut.channels.scoring.scores import Scores
from tailcut.errors import ArgumentError, StructureError


class SpectralImportance:
    """An `importance` for Torch-Pruning's pruners: `tp.pruner.BasePruner(model, x, SpectralImportance(loader))`.

    It scores all convolutions and linear layers of the network in one pass when it is first asked, and again when a
    layer's width is no longer the scored one, as in the next step of an iterative pruning. So all groups of one step
    are scored on the same network. A group's importance is the mean over the layers whose output channels it removes,
    after the scores of each were divided by their mean, as in `prune`: so layers of any scale can be ranked together.

    Args:
        loader: what `score` takes; it is read anew for each scoring, so a generator will not do.
        settings: keyword arguments of `score`: `method`, `num_batches`, `variant`, ...

    Attributes:
        scores: those last computed; None before.

    Raises:
        ArgumentError: the loader can be read only once.
        TypeError: `score` has no such argument.
    """

    def __init__(self, loader: Iterable[Any], **settings: Any) -> None:
        if isinstance(loader, Iterator):
            raise ArgumentError(
                f"the loader is a {type(loader).__name__}, which can be read only once; give a list of batches or a "
                "DataLoader"
            )
        inspect.signature(score).bind(None, loader, **settings)
        if "layers" in settings:
            raise ArgumentError("layers cannot be chosen here: give the pruner those it shall leave as ignored_layers")
        self._loader = loader
        self._settings = settings
        self.scores: Scores | None = None

    @torch.no_grad()
    def __call__(self, group: Any) -> Tensor:
        """Return the importance of each channel of a `torch_pruning.Group`.

        Returns:
            float64 (channels of the group's root,).

        Raises:
            StructureError: none of the group's layers has a score.
        """
        graph = group._DG
        names = {module: name for name, module in graph.model.named_modules()}
        members = [
            (names[item.dep.target.module], item.dep.target.module, item.idxs, item.root_idxs)
            for item in group
            if has_maps(item.dep.target.module)
            and graph.is_out_channel_pruning_fn(item.dep.handler)
            and None not in item.root_idxs
        ]
        if self.scores is None or any(
            len(self.scores.get(name, ())) not in (0, num_channels(layer)) for name, layer, _, _ in members
        ):
            layers = [name for module, name in names.items() if has_maps(module)]
            self.scores = score(graph.model, self._loader, layers=layers, **self._settings)
        # Every item says for each of its channels from which of the root's it follows.
        place_of = {channel: place for place, channel in enumerate(group[0].root_idxs)}
        sums = torch.zeros(len(place_of), dtype=torch.float64, device="cpu")
        counts = torch.zeros_like(sums)
        for name, _, channels, roots in members:
            if name in self.scores:
                places = torch.tensor([place_of[root] for root in roots], device="cpu")
                own = self.scores[name]
                sums.index_add_(0, places, own[channels] / (own.mean() if own.any() else 1))
                counts.index_add_(0, places, torch.ones(len(places), dtype=torch.float64, device="cpu"))
        if not bool((counts > 0).all()):
            root = names.get(group[0].dep.target.module, "a parameter")
            raise StructureError(
                f"no layer of the group of {root} has a score; put it into the pruner's ignored_layers"
            )
        return sums / counts
