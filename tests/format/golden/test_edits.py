"""Files with replaced stems and removed channels, which every later version must load to the same numbers.

Files are added, never changed: one that fails here means that stored files no longer load.
"""

import hashlib
import json
from pathlib import Path

import pytest
import torch

import tailcut
from tailcut.structure import example_shape, record_of

GOLDEN = sorted((Path(__file__).parent / "edits").glob("*.tailcut"))
every_file = pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)


def fingerprint(tensor: torch.Tensor) -> str:
    return hashlib.sha256(",".join(map(repr, tensor.flatten().tolist())).encode()).hexdigest()[:16]


@every_file
def test_stored_edits_load_for_ever(path: Path) -> None:
    expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    model = tailcut.load(path)
    assert [edit.kind for edit in record_of(model).edits] == expected["edits"]
    state = {name: [list(value.shape), fingerprint(value)] for name, value in model.state_dict().items()}
    assert state == expected["state"]


@every_file
def test_stored_networks_run(path: Path) -> None:
    model = tailcut.load(path)
    shape = example_shape(model)
    assert shape is not None
    with torch.no_grad():
        outputs = model(torch.zeros(shape))
    assert outputs.shape[0] == 1
    assert bool(outputs.isfinite().all())


def test_the_files_show_every_kind_of_edit() -> None:
    kinds = {edit.kind for path in GOLDEN for edit in record_of(tailcut.load(path)).edits}
    assert kinds == {"regularize", "replace_stem", "prune", "ycbcr"}
