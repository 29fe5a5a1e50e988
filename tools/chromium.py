"""A headless Chromium that opens a page and is told what to do, by its DevTools protocol over a pipe."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "--no-first-run",
)
# The browser reads its commands from file 3 and writes to file 4. Copies first: one of the two may have such a number.
AS_THREE_AND_FOUR = """
import os, sys
ends = [os.dup(int(number)) for number in sys.argv[1:3]]
ends = [os.dup2(end, 20 + place) for place, end in enumerate(ends)]
for place, end in enumerate(ends):
    os.dup2(end, 3 + place)
os.execv(sys.argv[3], sys.argv[3:])
"""
SECONDS = 120
CHUNK_BYTES = 1 << 16


KEYS = {"Tab": 9, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class BrowserError(RuntimeError):
    """The browser or the page did not do what it was told."""


def find_browser() -> str | None:
    """Return the program of CHROME_BIN, or Chromium or Chrome on the path; None if there is none."""
    return next(filter(None, [os.environ.get("CHROME_BIN"), *map(shutil.which, NAMES)]), None)


class Tab:
    """One tab of a browser.

    Attributes:
        requests: addresses that the page asked for.
        errors: exceptions and errors of its console.
    """

    def __init__(self, commands: BinaryIO, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._number, self._session, self._read = 0, "", b""
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, page: Path) -> None:
        """Open a file and wait until the page says that it is ready."""
        self.requests.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait_for("document.readyState === 'complete' && typeof tailcut === 'object'")
        self.evaluate("tailcut.ready.then(() => true)")

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page, awaited."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise BrowserError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + SECONDS
        while not self.evaluate(expression):
            if time.monotonic() > end:
                raise BrowserError(f"after {SECONDS} seconds not true: {expression}")
            time.sleep(0.02)

    def text(self, place: str) -> str:
        """Return what a reader reads in an element, given by its id."""
        return str(self.evaluate(f"document.getElementById({place!r}).innerText"))

    def choose(self, file: Path) -> None:
        """Choose a file as a reader does, and wait for the result or an error."""
        self.evaluate("document.getElementById('status').textContent = 'waiting'")
        self.evaluate("document.getElementById('file').value = ''")  # or the same file would be no change
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file.resolve())])
        self.wait_for("/, in [0-9]|^$/.test(document.getElementById('status').textContent)")

    def draw(self, strokes: Sequence[Sequence[tuple[int, int]]]) -> None:
        """Draw lines with the mouse on the page's drawing area, in hundredths of it, and wait for the answer."""
        self.evaluate("document.getElementById('pad').scrollIntoView({ block: 'center' })")
        box = self.evaluate("document.getElementById('pad').getBoundingClientRect().toJSON()")
        for stroke in strokes:
            kinds = ["mousePressed", *["mouseMoved"] * len(stroke), "mouseReleased"]
            for kind, (x, y) in zip(kinds, [stroke[0], *stroke, stroke[-1]], strict=True):
                place = {"x": box["x"] + x * box["width"] / 100, "y": box["y"] + y * box["height"] / 100}
                self.call("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **place)
        self.wait_for("/, in /.test(document.getElementById('status').textContent)")

    def press(self, key: str, code: str = "", text: str = "") -> None:
        """Press a key."""
        parameters = {"key": key, "code": code or key, "windowsVirtualKeyCode": KEYS.get(key, 0)}
        self.call("Input.dispatchKeyEvent", type="keyDown", **parameters, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **parameters)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            part = os.read(self._answers, CHUNK_BYTES)
            if not part:
                raise BrowserError("the browser has ended")
            self._read += part
        message, _, self._read = self._read.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        if answer.get("method") == "Network.requestWillBeSent":
            self.requests.append(answer["params"]["request"]["url"])
        if answer.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(answer["params"]))
        if answer.get("method") == "Log.entryAdded" and answer["params"]["entry"]["level"] == "error":
            self.errors.append(answer["params"]["entry"]["text"])
        return answer


@contextmanager
def chromium(folder: Path) -> Iterator[Tab]:
    """Start a browser with an empty profile in `folder`.

    Raises:
        BrowserError: there is none.
    """
    program = find_browser()
    if program is None:
        raise BrowserError("no Chromium: install it, or set CHROME_BIN to its program")
    (command_end, commands), (answers, answer_end) = os.pipe(), os.pipe()
    words = [sys.executable, "-c", AS_THREE_AND_FOUR, str(command_end), str(answer_end), program, *FLAGS]
    process = subprocess.Popen(  # noqa: S603
        [*words, f"--user-data-dir={folder / 'profile'}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(command_end, answer_end),
    )
    os.close(command_end)
    os.close(answer_end)
    try:
        with os.fdopen(commands, "wb") as writer:
            yield Tab(writer, answers)
    finally:
        process.terminate()
        process.wait(timeout=30)
        os.close(answers)
