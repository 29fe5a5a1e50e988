"""The Flower app of examples/federated, on this machine: its server and two clients talk over loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FEDERATED = Path(__file__).parents[2] / "examples" / "federated"
DENSE_BYTES = 430_500 * 4

RUN = """
import json, sys
sys.path.insert(0, sys.argv[1])
from run import run
print(json.dumps(run(**json.loads(sys.argv[2]))))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give the environment of a Python with Flower, which wants older packages than the other tools here do."""
    site = tmp_path_factory.mktemp("flower")
    requirements = str(FEDERATED / "requirements.txt")
    command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    # Bytecode is made of what is imported, which is a small part.
    command += ["--no-compile", "--target", str(site)]
    installed = subprocess.run([*command, "-r", requirements], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"Flower cannot be installed here: {installed.stderr.strip().splitlines()[-1]}")
    programs = os.pathsep.join([str(site / "bin"), os.environ["PATH"]])
    return os.environ | {"PYTHONPATH": str(site), "PATH": programs, "OMP_NUM_THREADS": "1"}


def rounds_of(environment: dict[str, str], **settings: object) -> list[dict[str, float]]:
    command = [sys.executable, "-c", RUN, str(FEDERATED), json.dumps({"data": "digits", **settings})]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rounds: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return rounds


@pytest.mark.slow
def test_rounds_exchange_packed_networks(environment: dict[str, str]) -> None:
    rounds = rounds_of(environment, num_kept=2000, num_rounds=3, num_epochs=4)
    assert [line["round"] for line in rounds] == [1, 2, 3]
    assert all(max(line["sent_to_each"], line["received_from_each"]) < DENSE_BYTES / 200 for line in rounds)
    # It learns what two clients know; each has half of the images.
    assert rounds[0]["accuracy"] < rounds[2]["accuracy"] > 0.85


@pytest.mark.slow
def test_dense_networks_travel_as_flower_sends_them(environment: dict[str, str]) -> None:
    (only,) = rounds_of(environment, num_kept=0, num_rounds=1, num_epochs=1)
    assert DENSE_BYTES <= only["sent_to_each"] == only["received_from_each"] < 1.01 * DENSE_BYTES
    assert only["accuracy"] > 0.3
