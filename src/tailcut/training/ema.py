"""Exponential moving average of parameters, which a run evaluates and packs if the recipe asks for it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tailcut.weights import truncated_tensors


class MovingAverage:
    """Exponential moving average of a model's trainable parameters, through cuts and shortened vectors.

    torch's `AveragedModel` copies the module; here only numbers are kept, by parameter name, and lent to the
    model for evaluation, so that a cut of the model is a cut of the average too.

    Args:
        model: the model whose parameters are averaged; it is not changed.
        decay: weight of the old average per step, 0 to 1. In step n at most (n + 1) / (n + 10), so that the
            average forgets the initial values.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.num_updates = 0
        self.values = {name: value.detach().clone() for name, value in self._parameters().items()}

    def update(self) -> None:
        """Take in the model's parameters after a step."""
        self.num_updates += 1
        weight = 1 - min(self.decay, (self.num_updates + 1) / (self.num_updates + 10))
        parameters = self._parameters()
        self._fit(parameters)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.values.values()), [value.detach() for value in parameters.values()], weight)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Within the block the model has the averaged parameters (changes the module, and back)."""
        own = {name: value.detach().clone() for name, value in self._parameters().items()}
        self._copy(self.values)
        try:
            yield
        finally:
            self._copy(own)

    def give(self) -> None:
        """Copy the averaged parameters into the model for good (changes the module)."""
        self._copy(self.values)

    def state_dict(self) -> dict[str, object]:
        """Return the averages, with vectors trimmed to their kept coefficients."""
        self._fit(self._parameters())
        lengths = self._kept()
        values = {
            name: (value[: lengths[name]] if name in lengths else value).clone() for name, value in self.values.items()
        }
        return {"num_updates": self.num_updates, "values": values}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take up what `state_dict` gave; vectors that are longer now get zeros, which are masked."""
        values, num_updates = state["values"], state["num_updates"]
        if not isinstance(values, Mapping) or not isinstance(num_updates, int):
            raise TypeError("this is no state of a MovingAverage")
        self.num_updates = num_updates
        for name, parameter in self._parameters().items():
            saved = values[name].to(parameter.device)
            full = saved.clone()
            if parameter.ndim == 1:
                full = torch.zeros_like(parameter.detach())
                full[: len(saved)] = saved
            self.values[name] = full

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def _kept(self) -> dict[str, int]:
        """Return the number of kept entries of each parameter that is a vector of coefficients."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return {names[id(tensor.vector)]: tensor.num_kept for tensor in truncated_tensors(self.model)}

    def _fit(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            if self.values[name].shape != parameter.shape:
                self.values[name] = self.values[name][: len(parameter)].clone()

    def _copy(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters().items():
                parameter.copy_(values[name][: len(parameter)] if parameter.ndim == 1 else values[name])
