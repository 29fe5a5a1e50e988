"""Networks described for the C reader."""

import subprocess
from pathlib import Path

import pytest
from tests.export_c.compiling import compile_c
from torch import nn

import tailcut
from tailcut.errors import ArgumentError
from tailcut.export_c.description import NetworkDescription, describe
from tailcut.export_c.description_text import description_text

ZOO = "zoo:lenet5-776"


def test_a_registered_network() -> None:
    found = describe(ZOO)
    state = tailcut.to_dense(tailcut.load(ZOO)).state_dict()
    assert found.base == "lenet5"
    assert {slot.name: slot.shape for slot in found.slots} == {key: tuple(value.shape) for key, value in state.items()}
    assert found.arguments[0] == 3  # so many are not the defaults
    assert found.edits == b""


def test_an_own_class_with_edits(tmp_path: Path) -> None:
    def fresh() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4))

    network = fresh()
    tailcut.regularize(network, num_kept=5)
    tailcut.save(network, tmp_path / "own.tailcut")
    given = fresh()
    found = describe(tmp_path / "own.tailcut", into=given)
    assert [slot.name for slot in found.slots] == list(fresh().state_dict())
    assert [slot.is_parameter for slot in found.slots][-3:] == [False, True, True]
    assert found.slots[-3].type_number == 4  # int64: num_batches_tracked
    assert list(given.state_dict()) == list(fresh().state_dict())
    with pytest.raises(ArgumentError, match="own class: give a fresh network"):
        describe(tmp_path / "own.tailcut")


def test_edits_that_change_layers() -> None:
    golden = Path(__file__).parents[1] / "format" / "golden" / "edits" / "pruned-regularized.tailcut"
    found = describe(golden)
    assert found.edits[:1] == b"\x03"  # kind 3, prune
    state = tailcut.to_dense(tailcut.load(golden)).state_dict()
    assert {slot.name: slot.shape for slot in found.slots} == {key: tuple(value.shape) for key, value in state.items()}


def test_the_text_is_c(tmp_path: Path) -> None:
    """Of a network with arguments, edits and tensors without axes."""
    golden = Path(__file__).parents[1] / "format" / "golden" / "edits" / "pruned-regularized.tailcut"
    described = describe(golden)
    text = description_text(described)
    main = f"int main(void) {{ return network.num_slots == {len(described.slots)} ? 0 : 1; }}"
    source = f'#include "tailcut.h"\n{text}{main}\n'
    (tmp_path / "a.c").write_text(source, encoding="utf-8")
    program = compile_c(tmp_path / "a", [tmp_path / "a.c"])
    assert subprocess.run([str(program)], check=False).returncode == 0
    assert '"say \\042\\134\\303\\244"' in description_text(NetworkDescription('say "\\ä', b"", b"", described.slots))
