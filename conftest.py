"""What all tests share: hypothesis without deadlines; Python blocks of README.md and docs/ run as tests."""

import contextlib
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

# A deadline per example fails on a busy machine, which says nothing about the code. In CI the parent is
# hypothesis's own profile "ci", whose examples are the same in every run.
hypothesis.settings.register_profile("tailcut", parent=hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("tailcut")

# A page that is run alone imports from tests/ too; a dependency installs a package of the same name.
sys.modules.setdefault("tests", ModuleType("tests")).__path__ = [str(Path(__file__).parent / "tests")]


def _enter_scratch_folder(namespace: dict[str, Any]) -> None:
    """One document's blocks run in order, share their names, and write into a folder of their own."""
    stack = contextlib.ExitStack()
    stack.enter_context(contextlib.chdir(stack.enter_context(tempfile.TemporaryDirectory())))
    namespace["_scratch_folder"] = stack


def _leave_scratch_folder(namespace: dict[str, Any]) -> None:
    namespace["_scratch_folder"].close()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["*.md"],
    excludes=["CHANGELOG.md", "CONTRIBUTING.md"],
    setup=_enter_scratch_folder,
    teardown=_leave_scratch_folder,
).pytest()
