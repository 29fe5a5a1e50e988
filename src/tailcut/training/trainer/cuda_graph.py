"""Forward and backward of training steps as one CUDA graph.

A step of a truncated or a small network is hundreds of short kernels, which Python takes longer to launch than the
GPU to run. A graph that recorded them once launches them all in one call (https://docs.pytorch.org/docs/stable/notes/
cuda.html#cuda-graphs). The optimiser's step stays outside: its learning rate and its state change as ever.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tailcut.errors import TrainingError, first_line

WARM_UP = 3  # steps before the recording, in which cuDNN chooses, and torch makes what it makes once

Compute = Callable[[Tensor, Tensor, Tensor], Tensor]


class RecordedGradients:
    """Loss and gradients of a step, computed as ever at first, then by a graph of such a computation.

    A batch of another form, or another `state`, begins anew. Whoever changes the network in more than its numbers
    gives another state, or calls `forget`.

    Args:
        compute: gives the loss of images, targets and places, a scalar without gradients, and leaves the gradients in
            the parameters, which have none before.
        parameters: those that are trained.
        device: the CUDA device that they are on.
    """

    def __init__(self, compute: Compute, parameters: Sequence[nn.Parameter], device: torch.device) -> None:
        self._compute, self._parameters, self._device = compute, parameters, device
        # Warm-up and recording are on one stream: torch remembers on which one a parameter gathers its gradient.
        self._stream = torch.cuda.Stream(device)
        self._form: object = None
        self.forget()

    def forget(self) -> None:
        """Begin anew: the next steps are computed as ever, then recorded (changes this object)."""
        self._num_seen = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._gradients: list[Tensor | None] = []
        self._loss = torch.zeros(())

    def __call__(self, images: Tensor, targets: Tensor, places: Tensor, *, state: object = None) -> Tensor:
        """Return the loss, a scalar on the device; the gradients are in the parameters then.

        Args:
            images: (batch, channels, height, width).
            targets: (batch,) or (batch, height, width).
            places: (batch,).
            state: what the computation depends on beside its inputs and the numbers of the network.

        Raises:
            TrainingError: a step of this network cannot be recorded.
        """
        inputs = [value.to(self._device) for value in (images, targets, places)]
        form = (state, [(value.shape, value.dtype, value.stride()) for value in inputs])
        if form != self._form:
            self.forget()
            self._form = form
        if self._graph is None and self._num_seen < WARM_UP:
            self._num_seen += 1
            return self._compute_beside(inputs)
        if self._graph is None:
            self._graph = self._record(inputs)
        for kept, value in zip(self._inputs, inputs, strict=True):
            kept.copy_(value)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        self._graph.replay()
        return self._loss.clone()

    def _compute_beside(self, inputs: Sequence[Tensor]) -> Tensor:
        """Compute a step on the stream of the recording."""
        self._clear()
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            loss = self._compute(*inputs)
        current.wait_stream(self._stream)
        return loss

    def _record(self, inputs: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
        """Record the computation for inputs of this form; nothing runs yet."""
        self._inputs = [value.clone() for value in inputs]
        self._clear()  # so that the backward writes gradients where each replay writes them again
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._loss = self._compute(*self._inputs)
        except RuntimeError as error:
            raise TrainingError(
                "training.cuda_graph: a step of this network cannot be recorded as a CUDA graph "
                f"({first_line(error)}); set it to false"
            ) from error
        self._gradients = [parameter.grad for parameter in self._parameters]
        return graph

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
