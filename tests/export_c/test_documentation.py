"""The programs in the docs compile and run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch
from tests.export_c.compiling import SANITIZED, STRICT, compile_c, compiler

import tailcut
from tailcut.errors import StructureError
from tailcut.export_c import (
    describe,
    description_text,
    export_c,
    integer_program_of,
    reader_sources,
    runtime_folder,
)
from tailcut.format.file_bytes import read_file
from tailcut.format.zoo import resolve, zoo_names

DOCS = Path(__file__).parents[2] / "docs"


def c_block(page: str) -> str:
    """The one block of C in a page."""
    (block,) = re.findall(r"```c\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    return str(block)


def built_by_the_page(page: str, program: str, folder: Path) -> Path:
    """The program that the page's own commands make, those of the block that calls the compiler."""
    compiler()  # or the test is skipped
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    (block,) = [block for block in blocks if f"-o {program}" in block]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-ec", block], cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / program


def test_integers_run_the_networks_of_the_zoo_that_the_page_says() -> None:
    """The smallest of each architecture: what is refused are layers, not numbers."""
    smallest: dict[str, str] = {}
    for name in sorted(zoo_names(), key=lambda name: resolve(f"zoo:{name}").stat().st_size):
        smallest.setdefault(re.sub(r"-(\d+|ref|parent|levels)(-float16)?$", "", name), name)
    assert len(smallest) == 12
    refused = set()
    for name in smallest.values():
        size = (48, 40) if name.startswith("unet") else None
        try:
            integer_program_of(tailcut.load(f"zoo:{name}"), image_size=size)
        except StructureError:
            refused.add(name)
    text = (DOCS / "integer-arithmetic.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"every network of the zoo but the vision transformer \(`([^`]+)`\)", text)
    assert refused == {said}


def test_the_whole_program_for_a_microcontroller(tmp_path: Path) -> None:
    model = tailcut.load("zoo:lenet5-776")
    export_c(model, tmp_path)
    (tmp_path / "main.c").write_text(c_block("microcontroller.md"), encoding="utf-8")
    program = compile_c(tmp_path / "program", sorted(tmp_path.glob("*.c")), "-Os", folders=[tmp_path])
    done = subprocess.run([str(program)], capture_output=True, text=True, check=True)
    with torch.no_grad():
        best = int(model(torch.full((1, 1, 28, 28), 0.5)).argmax())
    assert done.stdout == f"class {best}\n"


def test_the_whole_program_in_integers(tmp_path: Path) -> None:
    model = tailcut.load("zoo:lenet5-1500")
    export_c(model, tmp_path, arithmetic="integer")
    (tmp_path / "main.c").write_text(c_block("integer-arithmetic.md"), encoding="utf-8")
    program = compile_c(tmp_path / "program", sorted(tmp_path.glob("*.c")), "-Os", folders=[tmp_path])
    done = subprocess.run([str(program)], capture_output=True, text=True, check=True)
    with torch.no_grad():
        best = int(model(torch.full((1, 1, 28, 28), 128 / 255)).argmax())
    assert done.stdout == f"class {best}\n"


def test_the_call_of_the_reader(tmp_path: Path) -> None:
    source = tmp_path / "call.c"
    source.write_text(c_block("c-reader.md"), encoding="utf-8")
    command = [compiler(), *STRICT, "-Wno-missing-declarations", f"-I{runtime_folder()}", "-c", str(source)]
    subprocess.run([*command, "-o", str(tmp_path / "call.o")], check=True)


def test_a_file_that_comes_in_packets(tmp_path: Path) -> None:
    """Each level runs as soon as its last packet is there, with the answer that its network gives in torch."""
    name = "zoo:lenet5-levels"
    export_c(tailcut.load(name), tmp_path)
    (tmp_path / "network.h").write_text(f'#include "tailcut.h"\n{description_text(describe(name), "network")}')
    (tmp_path / "main.c").write_text(c_block("progressive-files.md"), encoding="utf-8")
    sources = {path.name: path for path in (*reader_sources(), *tmp_path.glob("*.c"))}
    program = compile_c(tmp_path / "program", [*sources.values()], *SANITIZED, folders=[tmp_path])
    content = read_file(name)
    as_written = built_by_the_page("progressive-files.md", "packets", tmp_path)
    outputs = [
        subprocess.run([str(one)], input=content, capture_output=True, check=True) for one in (program, as_written)
    ]
    assert [line.split(b":")[0] for line in outputs[0].stdout.splitlines()] == [
        line.split(b":")[0] for line in outputs[1].stdout.splitlines()
    ]
    done = subprocess.run([str(program)], input=content, capture_output=True, check=True)
    stroke = torch.zeros(1, 1, 28, 28)
    stroke[..., 13:16] = 1.0
    lines = done.stdout.decode().splitlines()
    ends = [entry.file_bytes for entry in tailcut.inspect(resolve(name)).levels]
    assert len(lines) == len(ends) == 4
    for level, (line, end) in enumerate(zip(lines, ends, strict=True), start=1):
        with torch.no_grad():
            scores = tailcut.load(name, level=level)(stroke).flatten()
        after = min(-(-end // 200) * 200, len(content))
        head, score = line.rsplit(" ", 1)
        assert head == f"level {level} of 4 after {after} bytes: class {int(scores.argmax())},"
        assert abs(float(score) - float(scores.max())) < 2e-3
    cut = subprocess.run([str(program)], input=content[: ends[1]], capture_output=True, check=True)
    assert [line.split(" after")[0] for line in cut.stdout.decode().splitlines()] == ["level 1 of 4", "level 2 of 4"]
