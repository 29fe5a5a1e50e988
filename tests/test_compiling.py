"""Loops kept on disk: whatever is wrong with the disk, they run."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tailcut
from tailcut.compiling import is_installed

PACKAGE = Path(tailcut.__file__).parent

# Two loops, one of which calls a third; what came of them, what was compiled, what was said. The package is not
# imported as a whole, since torch takes seconds.
SCRIPT = """
import json, logging, os, resource, sys, types, warnings
import numpy as np
sys.modules["tailcut"] = types.ModuleType("tailcut")
sys.modules["tailcut"].__path__ = [os.environ["PYTHONPATH"] + "/tailcut"]
from tailcut import compiling
messages = []
class Handler(logging.Handler):
    def emit(self, record): messages.append(record.getMessage())
logging.getLogger("tailcut").addHandler(Handler())
logging.getLogger("tailcut").setLevel(logging.INFO)
numba = __import__("numba")
FACTOR = int(sys.argv[1])
def inner(x): return FACTOR * x
inner = numba.njit(inner)
def sum_of(values):
    made = np.zeros(len(values))
    for i in range(len(values)): made[i] = inner(values[i])
    return made.sum()
def copy_of(values): return values.copy()
loops = [compiling.compile_loop(loop) for loop in (sum_of, copy_of)]
if "full" in sys.argv: resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = [float(loops[0](np.arange(4.0))), loops[1](np.arange(2)).tolist()]
print(json.dumps({
    "found": found,
    "compiled": [sum(loop.stats.cache_misses.values()) for loop in loops],
    "warnings": [(item.category.__name__, str(item.message)) for item in caught],
    "messages": messages,
}))
"""


def environment(tmp_path: Path, **changes: str) -> dict[str, str]:
    """A home and a package of which nothing can be written, for root too: files stand where folders should be made."""
    package = tmp_path / "site" / "tailcut"
    if not package.exists():
        shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
        for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
            (folder / "__pycache__").write_bytes(b"")
        (tmp_path / "file").write_bytes(b"")
    kept = {key: value for key, value in os.environ.items() if key not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    return kept | {"PYTHONPATH": str(package.parent), "HOME": str(tmp_path / "file"), **changes}


def run(script: str, *words: str, **settings: Any) -> Any:
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, **settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def loops_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.loop"))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of both loops of `SCRIPT` with the factor 3, which are the same wherever they lie; only to be read."""
    folder = tmp_path_factory.mktemp("compiled")
    env = environment(folder, NUMBA_CACHE_DIR=str(folder / "cache"))
    assert run(SCRIPT, "3", env=env)["found"] == [18.0, [0, 1]]
    assert len(loops_in(folder)) == 2
    return loops_in(folder)


def copy_into(folder: Path, files: list[Path]) -> None:
    folder.mkdir(parents=True)
    for path in files:
        shutil.copy(path, folder)


def test_loops_are_compiled_once(tmp_path: Path) -> None:
    """The second process finds them; another constant, another setting of numba's is another loop."""
    settings = {"env": environment(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache"))}
    first, second, other = (run(SCRIPT, factor, **settings) for factor in ("3", "3", "5"))
    assert first["found"] == second["found"] == [18.0, [0, 1]]
    assert (first["compiled"], second["compiled"]) == ([1, 1], [0, 0])
    assert other["found"] == [30.0, [0, 1]]
    assert other["compiled"] == [1, 0]
    assert [len(report["messages"]) for report in (first, second, other)] == [1, 0, 1]
    assert not first["warnings"] + second["warnings"] + other["warnings"]
    settings["env"]["NUMBA_BOUNDSCHECK"] = "1"
    assert run(SCRIPT, "3", **settings)["compiled"] == [1, 1]


@pytest.mark.parametrize(
    "folders",
    [
        {"NUMBA_CACHE_DIR": "{}/cache"},
        {"XDG_CACHE_HOME": "{}/cache"},
        {"NUMBA_CACHE_DIR": "{}/file", "XDG_CACHE_HOME": "{}/cache"},
        {"NUMBA_CACHE_DIR": "{}/file", "HOME": "{}/home"},
    ],
    ids=["numba's folder", "the user's cache", "numba's folder is a file", "home"],
)
def test_a_folder_is_found(tmp_path: Path, folders: dict[str, str]) -> None:
    settings = {name: folder.format(tmp_path) for name, folder in folders.items()}
    found = run(SCRIPT, "3", env=environment(tmp_path, **settings))
    assert (found["found"], found["warnings"]) == ([18.0, [0, 1]], [])
    assert len(loops_in(tmp_path)) == 2


@pytest.mark.parametrize("home", ["file", "nowhere", None])
def test_no_folder_can_be_written(tmp_path: Path, home: str | None) -> None:
    """Said once, by a warning of our own; nothing is lost but time."""
    env = environment(tmp_path)
    env = env | {"HOME": f"/proc/{home}"} if home == "nowhere" else env
    if home is None:
        del env["HOME"]
        env["XDG_CACHE_HOME"] = str(tmp_path / "file")
    found = run(SCRIPT, "3", env=env)
    assert (found["found"], found["compiled"]) == ([18.0, [0, 1]], [1, 1])
    ((kind, message),) = found["warnings"]
    assert kind == "UncachedLoopsWarning"
    assert "NUMBA_CACHE_DIR" in message
    assert "__pycache__" in message


def test_disk_is_full(tmp_path: Path) -> None:
    """No file may grow beyond nothing, as on a full disk; and nothing half-written stays."""
    env = environment(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    found = run(SCRIPT, "3", "full", env=env)
    assert found["found"] == [18.0, [0, 1]]
    assert [kind for kind, _ in found["warnings"]] == ["UncachedLoopsWarning"]
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "garbage"])
def test_damaged_cache(tmp_path: Path, damage: str, compiled: list[Path]) -> None:
    """What was damaged is compiled again, and its file replaced."""
    env = environment(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    copy_into(tmp_path / "cache" / "tailcut", compiled)
    names = [path.name for path in loops_in(tmp_path)]
    for path in loops_in(tmp_path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 16
        new = {"flip": content, "cut": content[: len(content) // 2], "empty": b"", "garbage": b"garbage"}
        path.write_bytes(bytes(new[damage]))
    found = run(SCRIPT, "3", env=env)
    assert (found["found"], found["compiled"], found["warnings"]) == ([18.0, [0, 1]], [1, 1], [])
    assert [path.name.split(".")[0] for path in loops_in(tmp_path)] == [name.split(".")[0] for name in names]
    assert run(SCRIPT, "3", env=env)["compiled"] == [0, 0]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no such owners here")
@pytest.mark.parametrize("by", ["group", "all", "owner"])
def test_what_others_may_have_written_is_not_run(by: str, tmp_path: Path, compiled: list[Path]) -> None:
    if by == "owner" and os.geteuid() != 0:
        pytest.skip("only root gives files to others")
    env = environment(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    copy_into(tmp_path / "cache" / "tailcut", compiled)
    assert run(SCRIPT, "3", env=env)["compiled"] == [0, 0]
    for path in loops_in(tmp_path):
        if by == "owner":
            os.chown(path, 65534, -1)
        else:
            path.chmod(0o664 if by == "group" else 0o646)
    found = run(SCRIPT, "3", env=env)
    assert (found["found"], found["compiled"], found["warnings"]) == ([18.0, [0, 1]], [1, 1], [])
    if by != "owner":  # what is written again is the user's own
        assert run(SCRIPT, "3", env=env)["compiled"] == [0, 0]


def test_not_what_numba_wrote(tmp_path: Path, compiled: list[Path]) -> None:
    """A file that is whole, and nothing that numba can load: the loop is compiled, and the warning names it."""
    env = environment(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    copy_into(tmp_path / "cache" / "tailcut", compiled)
    for path in loops_in(tmp_path):
        content = b"no loop"
        path.with_name(f"{path.name.split('.')[0]}.{hashlib.sha256(content).hexdigest()[:32]}.loop").write_bytes(
            content
        )
        path.unlink()
    found, again = run(SCRIPT, "3", env=env), run(SCRIPT, "3", env=env)
    assert found["found"] == again["found"] == [18.0, [0, 1]]
    ((kind, message),) = found["warnings"]
    assert (kind, "compiled anew" in message) == ("UncachedLoopsWarning", True)
    assert (again["compiled"], again["warnings"]) == ([0, 0], [])


def test_without_jit(tmp_path: Path) -> None:
    """NUMBA_DISABLE_JIT gives plain functions, which have no cache."""
    script = SCRIPT.replace("loop.stats.cache_misses.values()", "[]")
    assert run(script, "3", env=environment(tmp_path, NUMBA_DISABLE_JIT="1"))["found"] == [18.0, [0, 1]]


LOCKED = """
import json, sys, warnings
import torch
from torch import nn
import tailcut
from tailcut.inputs import read_jpeg
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)).eval()
tailcut.regularize(model, keep_ratio=0.02)
with warnings.catch_warnings(record=True) as caught, torch.no_grad():
    warnings.simplefilter("always")
    image = read_jpeg(sys.argv[1])
    fused = tailcut.fuse(model, engine="compiled")
    pixels = torch.rand(1, 3, 96, 96)
    gap = max(float((fused(pixels) - model(pixels)).abs().max()) for _ in range(4))
print(json.dumps([list(image.size), gap, [item.category.__name__ for item in caught]]))
"""


@pytest.mark.slow
def test_jpeg_files_and_fused_networks_where_nothing_can_be_written(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.jpg")
    size, gap, kinds = run(LOCKED, str(tmp_path / "x.jpg"), env=environment(tmp_path))
    assert size == [40, 56]
    assert gap < 1e-4
    assert kinds == ["UncachedLoopsWarning"]


def as_another_user(script: str, *words: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python as a user who may read everything, since all of Python may lie in root's home, and write nothing."""
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.getuid():
        pytest.skip("another user needs root and setpriv (util-linux)")
    user = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search"]
    user += ["--ambient-caps=+dac_read_search", "--bounding-set=-all,+dac_read_search"]
    if subprocess.run([*user, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let root become another user")
    command = [*user, sys.executable, "-B", "-c", script, *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd)


def roots_package(tmp_path: Path) -> dict[str, str]:
    """The environment of a user without a home and of a package that is root's."""
    shutil.copytree(PACKAGE, tmp_path / "site" / "tailcut", ignore=shutil.ignore_patterns("__pycache__"))
    return {**environment(tmp_path), "HOME": "/nonexistent"}


@pytest.mark.parametrize("named", [False, True], ids=["no folder named", "a folder of root's"])
def test_another_user_without_a_home(tmp_path: Path, named: bool) -> None:
    env = roots_package(tmp_path) | ({"NUMBA_CACHE_DIR": str(tmp_path)} if named else {})
    done = as_another_user(SCRIPT, "3", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["found"], found["compiled"]) == ([18.0, [0, 1]], [1, 1])
    assert [kind for kind, _ in found["warnings"]] == ["UncachedLoopsWarning"]
    assert found["warnings"][0][1].count("Permission denied") == 2 + named


@pytest.mark.parametrize("damage", ["none", "flip", "own digest"])
def test_another_user_finds_what_root_kept(tmp_path: Path, damage: str, compiled: list[Path]) -> None:
    """What is damaged cannot be removed, and is compiled anew; a home that can be written has it the next time."""
    env = roots_package(tmp_path)
    copy_into(tmp_path / "site" / "tailcut" / "__pycache__", compiled)
    kept = loops_in(tmp_path)
    for path in kept if damage != "none" else ():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        if damage == "own digest":
            path.write_bytes(b"not a loop")
            path.rename(
                path.with_name(f"{path.name.split('.')[0]}.{hashlib.sha256(b'not a loop').hexdigest()[:32]}.loop")
            )
    kept, home = loops_in(tmp_path), tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    for counts in ([int(damage != "none")] * 2, [0, 0]):
        done = as_another_user(SCRIPT, "3", env=env | {"HOME": str(home)}, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["found"], found["compiled"]) == ([18.0, [0, 1]], counts)
    assert set(kept) <= set(loops_in(tmp_path))


COMMANDS = """
import sys
from tailcut.cli import main
print(main(["pack", "zoo:lenet5-776", "-o", "new.tailcut"]))
print(main(["predict", "zoo:lenet5-776", sys.argv[1], "--json"]) or "predicted")
print(main(["train", sys.argv[2], "--out", "run", "--set", "training.epochs=1"]))
"""


@pytest.mark.slow
def test_commands_of_another_user_where_nothing_can_be_written(tmp_path: Path) -> None:
    Image.new("RGB", (28, 28)).save(tmp_path / "x.jpg")
    before = set(tmp_path.rglob("*"))
    env = roots_package(tmp_path)
    words = str(tmp_path / "x.jpg"), str(PACKAGE.parents[1] / "recipes" / "demo" / "digits.toml")
    done = as_another_user(COMMANDS, *words, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "1"
    assert '"probability"' in done.stdout
    assert done.stdout.splitlines()[-2:] == ["predicted", "1"]
    errors = [line for line in done.stderr.splitlines() if line.startswith("tailcut ")]
    assert [line.split(":")[0] for line in errors] == ["tailcut pack", "tailcut train"]
    assert all("Permission denied" in line for line in errors)
    assert "Traceback" not in done.stderr
    assert {path for path in tmp_path.rglob("*") if "site" not in path.parts} == before


@pytest.mark.slow
def test_jpeg_files_and_fused_networks_of_another_user(tmp_path: Path) -> None:
    Image.new("RGB", (56, 40)).save(tmp_path / "x.jpg")
    done = as_another_user(LOCKED, str(tmp_path / "x.jpg"), env=roots_package(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    size, gap, kinds = json.loads(done.stdout)
    assert (size, kinds) == ([40, 56], ["UncachedLoopsWarning"])
    assert gap < 1e-4


def test_is_installed() -> None:
    assert is_installed()
