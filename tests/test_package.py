"""The built wheel: what it holds, and that it works where only the core dependencies are installed.

The environment is a real one, `python -m venv` without pip. Its site-packages hold the wheel and links to the
core dependencies (and what these need) of the environment that runs the tests. So nothing is downloaded, and
an extra cannot be imported because it is not there.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parent.parent
RESULTS = REPOSITORY / "docs" / "results"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# One module of each distribution that only extras or the development tools ask for.
EXTRA_MODULES = [
    "jpeglib",
    "lightning_fabric",
    "matplotlib",
    "numba",
    "onnx",
    "onnxruntime",
    "pydantic",
    "rich",
    "scipy",
    "simplejpeg",
    "sklearn",
    "torch_pruning",
    "torchvision",
]

COMMANDS = ["train", "pack", "inspect", "evaluate", "predict", "convert", "unpack", "export", "models"]
COMMANDS += ["dct", "select", "score", "prune", "attack", "explain", "reproduce", "sweep", "report", "compare"]

ROUND_TRIP = """
import sys
from pathlib import Path
import torch
import tailcut

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(12, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 3))
report = tailcut.regularize(model, num_kept=10)
assert str(report)
tailcut.save(model, "small.tailcut")
assert "Linear" in str(model) and Path("small.tailcut").stat().st_size < 400
new = torch.nn.Sequential(torch.nn.Linear(12, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 3))
again = tailcut.load("small.tailcut", into=new)
x = torch.randn(5, 12)
assert torch.equal(model(x), again(x))
torch.testing.assert_close(tailcut.to_dense(again)(x), model(x))
assert str(tailcut.inspect("small.tailcut"))

own = tailcut.create_model("lenet5")
tailcut.regularize(own, num_kept=50)
tailcut.save(own, "lenet5.tailcut", dtype="float16")
assert set(tailcut.load("lenet5.tailcut").state_dict()) == set(own.state_dict())
print(Path(tailcut.__file__))
"""


def _run(command: Sequence[str | Path], folder: Path) -> str:
    """The standard output of a command that must succeed, run away from the repository and its settings."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TAILCUT_", "COVERAGE"))
    }
    result = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1", "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def _needed(requirements: Sequence[str]) -> set[str]:
    """The installed distributions that `requirements` ask for, directly or not, without extras."""
    found: set[str] = set()
    waiting = [Requirement(requirement) for requirement in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            waiting += map(Requirement, importlib.metadata.requires(name) or [])
    return found


def _link(distribution: str, site_packages: Path) -> None:
    """Make the files of an installed distribution importable from another site-packages."""
    files = importlib.metadata.files(distribution)
    assert files, f"{distribution} does not list its files"
    for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
        link = site_packages / top
        if not link.exists():
            link.symlink_to(Path(str(importlib.metadata.distribution(distribution).locate_file(top))))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the repository."""
    folder = tmp_path_factory.mktemp("dist")
    _run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, REPOSITORY], folder)
    (path,) = folder.glob("tailcut-*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and the core dependencies, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    _run([sys.executable, "-m", "pip", "--python", python, "install", *options, wheel], folder)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    for distribution in _needed(PROJECT["dependencies"]):
        _link(distribution, site_packages)
    return folder


def _records() -> list[Path]:
    return [
        path
        for folder in ("combined", "frequency-*", "training-for-bytes")
        for path in RESULTS.glob(f"{folder}/*.json")
    ]


def _experiments() -> list[Path]:
    return list(RESULTS.glob("experiments/*/*.json"))


def test_wheel_holds_the_package_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    source = REPOSITORY / "src"
    package = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    data = [path for folder in ("recipes", "experiments") for path in (REPOSITORY / folder).rglob("*.toml")]
    recipes = {f"tailcut/{path.relative_to(REPOSITORY)}" for path in data}
    wanted = {name for name in package if "__pycache__" not in name and not name.endswith(".pyc")} | recipes
    assert {"tailcut/py.typed", "tailcut/format/SPEC.md"} <= wanted
    assert any(name.endswith(".tailcut") for name in wanted)
    assert recipes
    assert _experiments()
    wanted |= {f"tailcut/results/{path.relative_to(RESULTS)}" for path in (*_records(), *_experiments())}
    assert wanted - names == set()


def test_wheel_holds_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    others = [name for name in names if not re.match(r"tailcut(-[^/]+\.dist-info)?/", name)]
    assert others == ["tailcut_command.py"]
    assert [name for name in names if "__pycache__" in name or name.endswith(".part")] == []


def test_wheel_holds_the_licence_and_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (licence,) = [name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
        assert archive.read(licence) == (REPOSITORY / "LICENSE").read_bytes()
        (entry_points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "tailcut = tailcut_command:main" in archive.read(entry_points).decode()


def test_no_extra_can_be_imported(environment: Path) -> None:
    """The other tests prove something only where the extras really are absent."""
    program = f"""
from importlib.util import find_spec
print([name for name in {EXTRA_MODULES!r} if find_spec(name)])
"""
    assert _run([environment / "bin" / "python", "-c", program], environment) == "[]\n"


def test_round_trip_with_no_extra(environment: Path, tmp_path: Path) -> None:
    output = _run([environment / "bin" / "python", "-W", "error", "-c", ROUND_TRIP], tmp_path)
    assert Path(output.strip()).is_relative_to(environment)


def test_help_with_no_extra(environment: Path, tmp_path: Path) -> None:
    overview = _run([environment / "bin" / "tailcut", "--help"], tmp_path)
    assert [command for command in COMMANDS if command not in overview] == []


def test_help_of_every_command_with_no_extra(environment: Path, tmp_path: Path) -> None:
    """In one process, since importing torch takes seconds."""
    program = f"""
from tailcut.cli import main
for command in {COMMANDS!r}:
    print("status", main([command, "--help"]))
"""
    output = _run([environment / "bin" / "python", "-c", program], tmp_path)
    assert output.count("status 0") == output.count("--json ") == len(COMMANDS)


def test_models_with_no_extra(environment: Path, tmp_path: Path) -> None:
    output = _run([environment / "bin" / "tailcut", "models", "--json"], tmp_path)
    text = json.dumps(json.loads(output))
    assert '"lenet5"' in text
    assert "lenet5-776" in text


def test_records_are_found_where_the_package_is_installed(environment: Path, tmp_path: Path) -> None:
    program = """
from tailcut.reports import find_results, records_folder
print(records_folder())
print(sorted(result.name for results in find_results("nowhere").values() for result in results))
"""
    folder, names = _run([environment / "bin" / "python", "-c", program], tmp_path).splitlines()
    assert Path(folder).is_relative_to(environment)
    assert names == str(sorted(json.loads(path.read_text())["name"] for path in _records()))


def test_records_of_experiments_are_found_where_the_package_is_installed(environment: Path, tmp_path: Path) -> None:
    program = """
from tailcut.reports import experiment_records
print(experiment_records("fr-corner"), *sorted(path.name for path in experiment_records("fr-corner").iterdir()))
"""
    folder, *names = _run([environment / "bin" / "python", "-c", program], tmp_path).split()
    assert Path(folder).is_relative_to(environment)
    assert names == sorted(path.name for path in _experiments() if path.parent.name == "fr-corner")


def test_zoo_loads_with_no_extra(environment: Path, tmp_path: Path) -> None:
    output = _run([environment / "bin" / "tailcut", "inspect", "zoo:lenet5-776", "--json"], tmp_path)
    assert json.loads(output)["num_kept"] == 776


def test_training_names_the_missing_extra(environment: Path, tmp_path: Path) -> None:
    recipe = min((REPOSITORY / "recipes").rglob("*.toml"))
    command = [str(environment / "bin" / "tailcut"), "train", str(recipe), "--out", "run"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 1
    assert "pip install '.[train]'" in result.stderr
    assert "Traceback" not in result.stderr
