"""The committed WebAssembly is what our C code gives, where the compiler that built it is there."""

from pathlib import Path

import pytest
from tools.build_wasm import BUILDS, FOLDER, VERSION, build, compiler


def test_it_is_built_again_byte_for_byte(tmp_path: Path) -> None:
    clang = compiler()
    if clang is None:
        pytest.skip(f"needs clang {VERSION} and wasm-ld (Debian 12: packages clang and lld)")
    made = build(clang, tmp_path)
    assert {path.name for path in made} == set(BUILDS) == {path.name for path in FOLDER.glob("*.wasm")}
    for path in made:
        assert path.read_bytes() == (FOLDER / path.name).read_bytes(), "run `make wasm`"


def test_only_one_build_has_vectors() -> None:
    """Bytes that begin vector instructions, 0xfd, are frequent in one build and rare in the other."""
    counts = {name: (FOLDER / name).read_bytes().count(b"\xfd") for name in BUILDS}
    assert counts["tailcut-simd.wasm"] > 20 * counts["tailcut.wasm"]
