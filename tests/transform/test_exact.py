import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils import backend_registration

from tailcut.errors import ArgumentError
from tailcut.transform import exact

FOLDER = Path(__file__).parent


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"), reason="torch has no such devices"
)
def test_on_a_device_without_float64() -> None:
    """In a process of its own, since torch would take the stand-in for an accelerator in the tests that follow."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / "without_float64.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=FOLDER.parent.parent)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_elsewhere_tensors_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(3)
    assert exact.where_exact(x) is x
    assert exact.exact(x).dtype == torch.float64
    exact.check_has_float64("it", nn.Linear(2, 2))
    monkeypatch.setattr(exact, "WITHOUT_FLOAT64", ("cpu",))
    with pytest.raises(ArgumentError, match=r"it works in float64, which cpu does not have"):
        exact.check_has_float64("it", nn.Linear(2, 2))
