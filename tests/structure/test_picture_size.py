import copy
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import tailcut
from tailcut.errors import ArgumentError
from tailcut.structure import as_metadata, create_model, is_size, picture_size, set_picture_size


def test_a_network_is_told_and_forgets() -> None:
    model = nn.Conv2d(3, 4, 3)
    assert picture_size(model) is None
    set_picture_size(model, [64, 48])
    assert picture_size(model) == picture_size(copy.deepcopy(model)) == (64, 48)
    assert as_metadata(model) == {"picture_size": "[64, 48]"}
    set_picture_size(model, None)
    assert picture_size(model) is None
    assert as_metadata(model) == {}


@pytest.mark.parametrize("size", [[64], [64, 0], [64, 1 << 17], [64, 4.5], [True, 3], "64", 64, {"a": 1, "b": 2}])
def test_what_is_no_size(size: Any) -> None:
    assert not is_size(size)
    with pytest.raises(ArgumentError, match=r"must be \(height, width\), 1 to 65536 pixels each, got"):
        set_picture_size(nn.Linear(2, 3), size)


def test_a_file_tells_it_and_one_without_tells_nothing(tmp_path: Path) -> None:
    model = create_model("resnet20")
    tailcut.save(model, tmp_path / "own.tailcut")
    set_picture_size(model, (64, 48))
    tailcut.save(model, tmp_path / "other.tailcut")
    assert picture_size(tailcut.load(tmp_path / "own.tailcut")) is None
    assert picture_size(tailcut.load(tmp_path / "other.tailcut")) == (64, 48)
    report = tailcut.inspect(tmp_path / "other.tailcut")
    assert report.metadata == {"picture_size": [64, 48]}
    assert "pictures         64 x 48 pixels" in str(report)
    tailcut.save(model, tmp_path / "users.tailcut", metadata={"picture_size": "large"})
    assert picture_size(tailcut.load(tmp_path / "users.tailcut")) is None
