"""The truncated tensors of a network, for code that reads, stores or runs them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

from tailcut.errors import ArgumentError, StructureError
from tailcut.structure import source_of
from tailcut.transform.dct import dct_basis
from tailcut.weights.parametrization.truncation import Truncation


@dataclass(frozen=True)
class TruncatedTensor:
    """One regularised tensor of a network, for code that stores or runs it.

    Attributes:
        name: its plain name (`conv.weight`), and in `aliases` the names of tied ones.
        truncation: the parametrisation (shape, axes, order weights, positions, corner).
        holder: the `ParametrizationList` whose `original` is the vector.
    """

    name: str
    aliases: tuple[str, ...]
    truncation: Truncation
    holder: parametrize.ParametrizationList

    @property
    def vector(self) -> nn.Parameter:
        """The trained vector, shape (length,); entries behind `num_kept` do not count."""
        vector = self.holder.original
        if not isinstance(vector, nn.Parameter):
            raise TypeError(f"{self.name}: the vector is no parameter")
        return vector

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense tensor."""
        return self.truncation.shape

    @property
    def axes(self) -> tuple[int, ...]:
        """The transformed axes, sorted."""
        return self.truncation.axes

    @property
    def num_kept(self) -> int:
        """Number of coefficients that count."""
        return self.truncation.num_kept

    def coefficients(self) -> torch.Tensor:
        """Return the kept coefficients in order, rounded as in the forward: (num_kept,). Differentiable."""
        return self.truncation.coefficients(self.vector)[: self.num_kept]

    def corner(self) -> torch.Tensor:
        """Return the low-frequency corner, zeros between the coefficients: one size per axis. Differentiable."""
        return self.truncation.corner(self.vector)

    def bases(self) -> tuple[torch.Tensor | None, ...]:
        """Per axis the cosines (corner size, full size) that expand it; None where it is not transformed."""
        truncation = self.truncation
        return tuple(
            dct_basis(size, kept, dtype=truncation.basis_type, device=self.vector.device)
            if axis in truncation.axes
            else None
            for axis, (kept, size) in enumerate(zip(truncation.corner_shape, truncation.shape, strict=True))
        )


def truncated_tensors(model: nn.Module) -> list[TruncatedTensor]:
    """Return all regularised tensors of `model`, in module order, tied ones once. Does not change the model.

    A fused view has those of the network it runs, by their names there.
    """
    found: dict[int, TruncatedTensor] = {}
    for name, truncation, holder in _walk(source_of(model)):
        known = found.get(id(truncation))
        if known is None:
            found[id(truncation)] = TruncatedTensor(name, (), truncation, holder)
        elif holder.original is not known.holder.original:
            raise StructureError(
                f"{known.name} and {name} were tied and are two vectors now, as after to_empty: load a state dict, "
                "which ties them again, or register one parameter at both places"
            )
        else:
            aliases = (*known.aliases, name)
            found[id(truncation)] = TruncatedTensor(known.name, aliases, truncation, known.holder)
    return list(found.values())


def truncation_of(module: nn.Module, parameter_name: str) -> TruncatedTensor:
    """Bases, corner and coefficients of one parameter of a layer. Does not change the module.

    Args:
        module: the layer that holds the parameter (or a model, with a dotted name).
        parameter_name: for example "weight" or "features.0.weight".

    Raises:
        ArgumentError: there is no regularised parameter of that name.
    """
    for tensor in truncated_tensors(module):
        if parameter_name in (tensor.name, *tensor.aliases):
            return tensor
    known = ", ".join(tensor.name for tensor in truncated_tensors(module)) or "none"
    raise ArgumentError(f"no regularised parameter {parameter_name!r} here; regularised: {known}")


def kept_counts(model: nn.Module) -> dict[str, int]:
    """Return the number of coefficients of each regularised tensor of `model`, by name. Does not change the model."""
    return {tensor.name: tensor.num_kept for tensor in truncated_tensors(model)}


def _walk(model: nn.Module) -> Iterator[tuple[str, Truncation, parametrize.ParametrizationList]]:
    for path, module in model.named_modules(remove_duplicate=False):
        if not parametrize.is_parametrized(module):
            continue
        lists = module.parametrizations
        if not isinstance(lists, nn.ModuleDict):
            continue
        for attribute, holder in lists.items():
            if isinstance(holder, parametrize.ParametrizationList) and isinstance(holder[0], Truncation):
                name = f"{path}.{attribute}" if path else attribute
                if len(holder) > 1:
                    raise StructureError(
                        f"{name} has a second parametrisation ({type(holder[1]).__name__}) on top of its "
                        "coefficients; put it on before regularize, or leave it out"
                    )
                yield name, holder[0], holder
