"""Run the app on this machine: a server and two clients that talk over loopback, in processes of their own.

    python run.py                                         # digits that come with scikit-learn, packed
    python run.py --num-kept 0                            # dense weights
    python run.py --data mnist --num-kept 8000 --num-epochs 1

It needs Flower: `pip install -r requirements.txt`.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
NUM_CLIENTS = 2
SECONDS = 600
"""The longest that a run may take."""


def main() -> None:
    """Run the app and print a line for each round."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="digits", help="digits, mnist or cifar10")
    parser.add_argument("--num-kept", type=int, default=2000, help="coefficients of each layer; 0: dense weights")
    parser.add_argument("--num-rounds", type=int, default=6)
    parser.add_argument("--num-epochs", type=int, default=4, help="of each client in a round")
    arguments = parser.parse_args()
    if not shutil.which("flower-superlink", path=programs()):
        sys.exit(f"Flower is not installed here: {sys.executable} -m pip install -r {HERE / 'requirements.txt'}")
    rounds = run(**vars(arguments))
    for line in rounds:
        print(
            f"round {line['round']}: {line['sent_to_each']:,} bytes to each client, "
            f"{line['received_from_each']:,} back, accuracy {line['accuracy']:.2%}"
        )


def run(*, data: str, num_kept: int, num_rounds: int, num_epochs: int) -> list[dict[str, float]]:
    """Return the figures of each round.

    Raises:
        RuntimeError: the federation ended without a result; the message has the end of its log.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result, log = folder / "result.jsonl", folder / "log.txt"
        with federation(folder, log) as environment:
            settings = f'data="{data}" num-kept={num_kept} num-rounds={num_rounds} num-epochs={num_epochs} '
            settings += f'learning-rate={0.005 if num_kept else 0.001} result="{result}"'
            subprocess.run(
                [program("flwr"), "run", str(HERE), "loopback", "--run-config", settings],
                env=environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            wait_for(result, log)
            return [json.loads(line) for line in result.read_text().splitlines()]


@contextlib.contextmanager
def federation(folder: Path, log: Path) -> Iterator[dict[str, str]]:
    """Keep a server and its clients running, and give the environment of Flower's commands."""
    server_port, *client_ports = free_ports(1 + NUM_CLIENTS)
    address = f"127.0.0.1:{server_port}"
    environment = os.environ | {
        "FLWR_HOME": str(folder),
        "FLWR_TELEMETRY_ENABLED": "0",
        "PATH": programs(),
    }
    (folder / "config.toml").write_text(f'[superlink.loopback]\naddress = "{address}"\ninsecure = true\n')
    server = [program("flower-superlink"), "--insecure", "--disable-runtime-dependency-installation"]
    server += ["--host", "127.0.0.1", "--port", str(server_port)]
    commands = [server]
    for client, port in enumerate(client_ports):
        command = [program("flower-supernode"), "--insecure", "--superlink", address, "--port", str(port)]
        command += ["--node-config", f"partition-id={client} num-partitions={NUM_CLIENTS}"]
        commands.append(command)
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("w"))
        for command in commands:
            # A group of its own: each starts processes for the app, which must end with it.
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            stack.callback(process.wait)
            stack.callback(os.killpg, process.pid, signal.SIGTERM)
        wait_for_port(server_port, log)
        yield environment


def wait_for(result: Path, log: Path) -> None:
    """Wait until the server has written its result."""
    end = time.monotonic() + SECONDS
    while not result.exists():
        if time.monotonic() > end or "a client failed" in log.read_text():
            raise RuntimeError("the federation gave no result; its log ends with\n" + log.read_text()[-3000:])
        time.sleep(0.2)


def wait_for_port(port: int, log: Path) -> None:
    """Wait until the server listens."""
    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if time.monotonic() > end:
            raise RuntimeError("the server does not listen; its log ends with\n" + log.read_text()[-3000:])
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Return ports that no program listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def programs() -> str:
    """Return where programs are looked for: beside this Python first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def program(name: str) -> str:
    """Return the path of one of Flower's commands."""
    path = shutil.which(name, path=programs())
    assert path is not None
    return path


if __name__ == "__main__":
    main()
