"""The exported network that is timed gives what torch does."""

import shutil
from pathlib import Path

import pytest
import torch

import tailcut
from bench import c_speed


@pytest.mark.skipif(shutil.which(c_speed.COMPILER) is None, reason="no C compiler `cc` on this machine")
def test_the_call_is_that_of_the_network(tmp_path: Path) -> None:
    model, x = tailcut.load("zoo:lenet5-776"), torch.rand(1, 1, 28, 28)
    forward = c_speed.c_forward(model, x, tmp_path)
    with torch.no_grad():
        wanted = model(x).flatten()
    for _ in range(2):
        torch.testing.assert_close(forward(), wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
