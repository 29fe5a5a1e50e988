"""Fixtures shared by all tests."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.small_recipe import make_recipe, one_thread, recipe_text

__all__ = ["make_recipe", "one_thread", "recipe_text"]  # fixtures


def pytest_configure() -> None:
    """Let tests be interrupted as in a terminal: what a script runs in the background is started without Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave torch and all collected tests out of garbage collections, each of which would take half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def gradients_stay_on() -> Iterator[None]:
    """A test that leaves gradients off fails, not one of the hundreds that run after it in the same process."""
    yield
    left_off = not torch.is_grad_enabled() or torch.is_inference_mode_enabled()
    torch.set_grad_enabled(True)
    assert not left_off, "torch's gradients were off when this test ended"


@pytest.fixture(autouse=True)
def no_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plot of a run takes longer than most trainings of tests; those marked `curves` get it."""
    base = sys.modules.get("tailcut.training.trainer.base")
    if base is not None and "curves" not in request.keywords:
        monkeypatch.setattr(base, "try_to_draw_curves", lambda *args, **settings: None)


def _find_root(part: str) -> Path:
    """The data root among those of TAILCUT_DATA that holds `part`; skip without it, fail in CI."""
    roots = [Path(root) for root in os.environ.get("TAILCUT_DATA", "").split(os.pathsep) if root]
    for root in roots:
        if (root / part).exists():
            return root
    reason = f"needs real data: set TAILCUT_DATA to a folder that holds {part}/"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """A data root that holds mnist/."""
    return _find_root("mnist")


@pytest.fixture(scope="session")
def carvana_root() -> Path:
    """A data root that holds carvana/."""
    return _find_root("carvana")


@pytest.fixture(scope="session")
def cifar10_root() -> Path:
    """A data root that holds cifar-10-batches-bin/."""
    return _find_root("cifar-10-batches-bin")


@pytest.fixture(scope="session")
def imagenette_root() -> Path:
    """A data root that holds imagenette224/."""
    return _find_root("imagenette224")


@pytest.fixture(scope="session")
def coco_root() -> Path:
    """A data root that holds coco/."""
    return _find_root("coco")


@pytest.fixture(scope="session")
def weights_root() -> Path:
    """A data root that holds weights/, the published checkpoints."""
    return _find_root("weights")
