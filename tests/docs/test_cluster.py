"""The commands on the page about clusters: they parse, their counts agree, and the ones for one machine run."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.test_pages import blocks, parser_of_all_commands

from tailcut.evaluation.files import evaluate_file
from tailcut.format import save
from tailcut.runs import Run
from tailcut.structure import create_model
from tailcut.training.recipe.toml_files import find_recipe

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
LINES = [line for block in blocks(PAGE, "bash") for line in block.splitlines()]
TORCHRUN = [line for line in LINES if line.startswith("torchrun ")]
OPTIONS = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", PAGE, re.MULTILINE))


def train_words(line: str) -> list[str]:
    """The words of Tailcut in a line that starts it by something else."""
    words = shlex.split(line)
    return words[words.index("tailcut") + 1 :]


def number(line: str, option: str) -> int:
    found = re.search(rf"--{option}[ =](\d+)", line)
    return int(found[1]) if found else 1


@pytest.mark.parametrize("line", TORCHRUN)
def test_torchrun_starts_as_many_as_the_run_counts(line: str) -> None:
    arguments = parser_of_all_commands().parse_args(train_words(line))
    assert (number(line, "nproc-per-node"), number(line, "nnodes")) == (arguments.devices, arguments.num_nodes)
    assert arguments.resume
    find_recipe(arguments.recipe)


def test_both_forms_of_torchrun_are_there() -> None:
    assert [number(line, "nnodes") for line in TORCHRUN] == [1, 2]


def test_slurm_starts_as_many_as_the_run_counts() -> None:
    (line,) = (line for line in LINES if line.startswith("srun "))
    arguments = parser_of_all_commands().parse_args(train_words(line))
    assert arguments.devices == int(OPTIONS["ntasks-per-node"]) == int(OPTIONS["gpus-per-node"])
    assert arguments.num_nodes == int(OPTIONS["nodes"])
    assert arguments.resume
    find_recipe(arguments.recipe)


@pytest.mark.parametrize("script", blocks(PAGE, "bash"))
def test_the_shell_understands_each_block(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def outcome(words: list[str], **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_torchrun_trains_with_two_processes(tmp_path: Path) -> None:
    """The page's line for one machine, on two CPU processes and a recipe that needs no data."""
    line = TORCHRUN[0].replace("--nproc-per-node 4", "--nproc-per-node 2").replace("--devices 4", "--devices 2")
    line = line.replace("resnet18-111901", "demo/digits").replace("runs/resnet18", str(tmp_path / "run"))
    words = shlex.split(line.removeprefix("torchrun "))
    words += ["--accelerator", "cpu", "--set", "training.epochs=1", "--json"]
    run = outcome([sys.executable, "-m", "torch.distributed.run", *words])
    printed, messages = run.communicate(timeout=300)
    assert run.returncode == 0, messages
    assert json.loads(printed)["num_devices"] == 2
    assert Run(tmp_path / "run").read_result().num_devices == 2


@pytest.mark.slow
def test_processes_that_slurm_starts_find_each_other(tmp_path: Path) -> None:
    """As srun starts them: a process for each task, told apart by variables alone."""
    save(create_model("lenet300"), tmp_path / "a.tailcut")
    words = [sys.executable, "-m", "tailcut", "evaluate", str(tmp_path / "a.tailcut"), "--data", "digits", "--json"]
    words += ["--accelerator", "cpu", "--devices", "2"]
    slurm = {
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1",
        "SLURM_JOB_ID": str(10_000 + os.getpid() % 10_000),
        "SLURM_JOB_NAME": "train",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NODEID": "0",
    }
    tasks = [outcome(words, **slurm, SLURM_PROCID=task, SLURM_LOCALID=task) for task in ("0", "1")]
    printed = [task.communicate(timeout=300) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], printed
    alone = evaluate_file(tmp_path / "a.tailcut", "digits", device="cpu")
    assert json.loads(printed[0][0])["metrics"] == alone.metrics
    assert printed[1][0] == ""
