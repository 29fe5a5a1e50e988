"""The public face of the package: few names, all documented, and nothing that was not meant to be there."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import assert_type

import pytest
from torch import nn

import tailcut
from tailcut.models.lenet5 import LeNet5
from tailcut.weights import regularize

REPOSITORY = Path(__file__).parent.parent
MAX_PUBLIC_NAMES = 24


def test_all_is_sorted_and_short() -> None:
    assert list(tailcut.__all__) == sorted(tailcut.__all__)
    assert len(set(tailcut.__all__)) == len(tailcut.__all__) <= MAX_PUBLIC_NAMES


@pytest.mark.parametrize("name", tailcut.__all__)
def test_public_name_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(getattr(tailcut, name))


def test_networks_come_back_as_what_they_are(tmp_path: Path) -> None:
    """A type checker knows the class of what `load(into=)` and `to_dense` give: mypy reads this test too."""
    model = LeNet5()
    regularize(model, num_kept=5)
    tailcut.save(model, tmp_path / "a.tailcut")
    loaded = assert_type(tailcut.load(tmp_path / "a.tailcut", into=LeNet5()), LeNet5)
    assert_type(tailcut.load("zoo:lenet5-776"), nn.Module)
    assert_type(tailcut.to_dense(tailcut.fuse(loaded)), nn.Module)
    assert type(assert_type(tailcut.to_dense(loaded), LeNet5)) is LeNet5


def test_main_functions_are_public() -> None:
    wanted = {
        "NestedLevels",
        "TailTruncation",
        "create_model",
        "inspect",
        "load",
        "regularize",
        "register_model",
        "save",
        "to_dense",
    }
    assert wanted <= set(tailcut.__all__)


def test_nothing_else_looks_public() -> None:
    """Besides `__all__` only subpackages are visible, which the import system puts there."""
    folder = Path(inspect.getfile(tailcut)).parent
    modules = {path.stem for path in folder.iterdir()}
    visible = {name for name in vars(tailcut) if not name.startswith("_")}
    assert visible - set(tailcut.__all__) - modules == set()


@pytest.mark.parametrize("name", tailcut.__all__)
def test_public_name_is_explained(name: str) -> None:
    # Not in the reference, which lists each name by itself.
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    found = re.search(rf"\btailcut\.{name}\b", text) is not None
    assert found, f"neither README.md nor a page in docs/ mentions tailcut.{name}"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        getattr(tailcut, "no_such_name")  # noqa: B009


def test_import_is_quiet_and_does_not_load_extras() -> None:
    """Neither output nor warnings, and none of the heavy extras although they are installed here."""
    program = """
import sys, tailcut
extras = {"lightning_fabric", "matplotlib", "numba", "onnx", "pydantic", "rich", "sklearn", "torch_pruning"}
print(sorted(extras & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")
