"""Fixtures for the tests of networks."""

from pathlib import Path

import pytest
from tests.conftest import _find_root


@pytest.fixture(scope="session")
def weights_root() -> Path:
    """A data root that holds weights/, the published checkpoints."""
    return _find_root("weights")
