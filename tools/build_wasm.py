"""Builds the runner of `tailcut export --to html` into src/tailcut/export_html/wasm: `python -m tools.build_wasm`.

Needs clang with its linker for WebAssembly (Debian's packages clang and lld). The files are committed, so that users
need no compiler; a test builds them again and compares.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tailcut.export_c.sources import RUNNER, runtime_folder

FOLDER = Path(__file__).resolve().parents[1] / "src" / "tailcut" / "export_html" / "wasm"
# Name of the file -> options. With the usual unrolling and inlining, vectors take twice the code at the same speed.
BUILDS = {
    "tailcut-simd.wasm": ("-O2", "-msimd128", "-fno-unroll-loops", "-mllvm", "-inline-threshold=10"),
    "tailcut.wasm": ("-Os", "-DTAILCUT_SMALL=0"),  # which has tailcut_prepare
}
COMPILER = ("--target=wasm32", "-std=c99", "-mbulk-memory", "-mnontrapping-fptoint", "-nostdlib")
EXPORTED = ("tailcut_prepare", "tailcut_run_prepared", "__heap_base")
LINKER = ("--no-entry", *(f"--export={name}" for name in EXPORTED), "--strip-all", "--stack-first")
STACK_BYTES = 16_384
VERSION = "14.0"  # of clang: another one makes other bytes


def compiler() -> str | None:
    """Return the clang that the committed files were built by, if this machine has it with its linker."""
    for name in ("clang-14", "clang"):
        found = shutil.which(name)
        if found and any(map(shutil.which, ("wasm-ld", "wasm-ld-14"))):
            told = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
            if f"version {VERSION}" in told:
                return found
    return None


def build(clang: str, folder: Path) -> list[Path]:
    """Build all files into a folder.

    The C files need `memcpy` and its like only, which are instructions of WebAssembly; their declarations are given in
    place of a C library's.
    """
    built = []
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "string.h").write_text(
            "#include <stddef.h>\nvoid *memcpy(void *, const void *, size_t);\nvoid *memset(void *, int, size_t);\n",
            encoding="utf-8",
        )
        for name, options in BUILDS.items():
            sources = [str(runtime_folder() / source) for source in RUNNER]
            words = [clang, *COMPILER, *options, f"-I{scratch}", f"-I{runtime_folder()}", *sources]
            words += [f"-Wl,{option}" for option in (*LINKER, f"-z,stack-size={STACK_BYTES}")]
            subprocess.run([*words, "-o", str(folder / name)], check=True)  # noqa: S603
            (folder / name).chmod(0o644)
            built.append(folder / name)
    return built


def main() -> None:
    """Build into the package."""
    clang = compiler()
    if clang is None:
        sys.exit(f"needs clang {VERSION} and wasm-ld: Debian 12 has them in the packages clang and lld")
    for path in build(clang, FOLDER):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
