"""`tailcut.inputs` as a whole: what it shows, and that it needs no extra to be imported."""

import inspect
import subprocess
import sys

import pytest

from tailcut import inputs

MODULES = {name for name, value in vars(inputs).items() if inspect.ismodule(value)}
NAMES = sorted(name for name in vars(inputs) if not name.startswith("_") and name not in MODULES)

IMPORT_WITHOUT_EXTRAS = """
import builtins
real = builtins.__import__
extras = {"jpeglib", "simplejpeg", "torch_pruning", "torchvision", "matplotlib", "scipy", "numba", "sklearn"}

def refuse(name, *args, **settings):
    if name.partition(".")[0] in extras:
        raise ImportError(name)
    return real(name, *args, **settings)

builtins.__import__ = refuse
import torch
from tailcut import inputs
assert inputs.BlockDCT(24)(torch.zeros(3, 16, 16)).shape == (24, 2, 2)
"""


@pytest.mark.parametrize("name", NAMES)
def test_public_name_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(getattr(inputs, name))


def test_what_the_papers_reader_looks_for_is_there() -> None:
    wanted = {"BlockDCT", "FrequencyGate", "JpegCoefficients", "Selection", "read_jpeg", "replace_stem", "square"}
    assert wanted | {"convert_patch_embedding", "transform_of", "transplant_stem", "triangle"} <= set(NAMES)


def test_every_function_of_the_table_exists() -> None:
    table = [line for line in (inputs.__doc__ or "").splitlines() if line.startswith("|")]
    assert len(table) > 5
    for line in table[2:]:
        for word in line.split("`")[1::2]:
            owner: object = inputs
            for part in word.split("."):
                owner = getattr(owner, part)


def test_import_needs_no_extra_and_is_quiet() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_WITHOUT_EXTRAS],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
