"""Fixtures of the tests of execution."""

from collections.abc import Iterator

import pytest
import torch

from tailcut.execution.ir.cost import Costs
from tailcut.execution.lazy.context import Context, running


@pytest.fixture
def context() -> Iterator[Context]:
    """A forward that is under way, with plain tiles."""
    with running(Context("torch", "low_rank", Costs.of("cpu", with_gradients=False))) as context:
        yield context


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
