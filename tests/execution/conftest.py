"""Fixtures of the tests of execution."""

from collections.abc import Iterator

import pytest
import torch

from tailcut.execution.ir.cost import Costs
from tailcut.execution.lazy.context import Run, running


@pytest.fixture
def run() -> Iterator[Run]:
    """A forward that is under way, with plain tiles."""
    with running(Run("torch", "narrow", Costs.of("cpu", with_gradients=False))) as run:
        yield run


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
