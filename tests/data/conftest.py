"""Fixtures for the tests of data sets."""

import gzip
import os
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tailcut.data import roots


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user cache, and no TAILCUT_DATA: nothing outside the test's own folders is looked at."""
    folder = tmp_path / "user-cache"
    monkeypatch.setattr(roots, "cache_root", lambda: folder)
    monkeypatch.delenv(roots.ENVIRONMENT_VARIABLE, raising=False)
    return folder


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], str]]:
    """A function that serves a folder over HTTP on this machine and returns its address."""
    for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(folder: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(folder)))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


IdxBytes = Callable[..., bytes]


@pytest.fixture(scope="session")
def idx_bytes() -> IdxBytes:
    """A function that gives the idx form of a uint8 array, by default with a true header."""

    def encode(values: np.ndarray, *, shape: tuple[int, ...] | None = None, magic: bytes | None = None) -> bytes:
        shape = values.shape if shape is None else shape
        header = bytes((0, 0, 8, len(shape))) if magic is None else magic
        return header + struct.pack(f">{len(shape)}I", *shape) + values.tobytes()

    return encode


@pytest.fixture
def small_mnist(tmp_path: Path, idx_bytes: IdxBytes) -> Path:
    """A data root with an MNIST of 12 training and 5 test digits of random pixels; label i is i % 10."""
    root = tmp_path / "small"
    (root / "mnist").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for prefix, num in (("train", 12), ("t10k", 5)):
        images = generator.integers(0, 256, (num, 28, 28), dtype=np.uint8)
        labels = (np.arange(num) % 10).astype(np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            path = root / "mnist" / f"{prefix}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(idx_bytes(values), mtime=0))
    return root
