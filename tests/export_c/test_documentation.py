"""The programs in the docs compile and run."""

import re
import subprocess
from pathlib import Path

import torch
from tests.export_c.compiling import STRICT, compile_c, compiler

import tailcut
from tailcut.export_c import export_c, runtime_folder

DOCS = Path(__file__).parents[2] / "docs"


def c_block(page: str) -> str:
    """The one block of C in a page."""
    (block,) = re.findall(r"```c\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    return str(block)


def test_the_whole_program_for_a_microcontroller(tmp_path: Path) -> None:
    model = tailcut.load("zoo:lenet5-776")
    export_c(model, tmp_path)
    (tmp_path / "main.c").write_text(c_block("microcontroller.md"), encoding="utf-8")
    program = compile_c(tmp_path / "program", sorted(tmp_path.glob("*.c")), "-Os", folders=[tmp_path])
    done = subprocess.run([str(program)], capture_output=True, text=True, check=True)
    with torch.no_grad():
        best = int(model(torch.full((1, 1, 28, 28), 0.5)).argmax())
    assert done.stdout == f"class {best}\n"


def test_the_call_of_the_reader(tmp_path: Path) -> None:
    source = tmp_path / "call.c"
    source.write_text(c_block("c-reader.md"), encoding="utf-8")
    command = [compiler(), *STRICT, "-Wno-missing-declarations", f"-I{runtime_folder()}", "-c", str(source)]
    subprocess.run([*command, "-o", str(tmp_path / "call.o")], check=True)
