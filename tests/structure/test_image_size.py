import copy
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import tailcut
from tailcut.errors import ArgumentError
from tailcut.structure import as_metadata, create_model, image_shorter_side, image_size, is_size, set_image_size


def test_a_network_is_told_and_forgets() -> None:
    model = nn.Conv2d(3, 4, 3)
    assert image_size(model) is None
    set_image_size(model, [64, 48])
    assert image_size(model) == image_size(copy.deepcopy(model)) == (64, 48)
    assert as_metadata(model) == {"image_size": "[64, 48]"}
    set_image_size(model, None)
    assert image_size(model) is None
    assert as_metadata(model) == {}


@pytest.mark.parametrize("size", [[64], [64, 0], [64, 1 << 17], [64, 4.5], [True, 3], "64", 64, {"a": 1, "b": 2}])
def test_what_is_no_size(size: Any) -> None:
    assert not is_size(size)
    with pytest.raises(ArgumentError, match=r"must be \(height, width\), 1 to 65536 pixels each, got"):
        set_image_size(nn.Linear(2, 3), size)


def test_a_file_tells_it_and_one_without_tells_nothing(tmp_path: Path) -> None:
    model = create_model("resnet20")
    tailcut.save(model, tmp_path / "own.tailcut")
    set_image_size(model, (64, 48))
    tailcut.save(model, tmp_path / "other.tailcut")
    assert image_size(tailcut.load(tmp_path / "own.tailcut")) is None
    assert image_size(tailcut.load(tmp_path / "other.tailcut")) == (64, 48)
    report = tailcut.inspect(tmp_path / "other.tailcut")
    assert report.metadata == {"image_size": [64, 48]}
    assert "images           64 x 48 pixels" in str(report)
    tailcut.save(model, tmp_path / "users.tailcut", metadata={"image_size": "large"})
    assert image_size(tailcut.load(tmp_path / "users.tailcut")) is None


def test_a_middle_is_told_by_the_shorter_side(tmp_path: Path) -> None:
    model = create_model("resnet20")
    set_image_size(model, (48, 48), shorter_side=64)
    assert image_shorter_side(model) == image_shorter_side(copy.deepcopy(model)) == 64
    tailcut.save(model, tmp_path / "a.tailcut")
    loaded = tailcut.load(tmp_path / "a.tailcut")
    assert (image_size(loaded), image_shorter_side(loaded)) == ((48, 48), 64)
    assert "48 x 48 pixels, the middle of 64 along the shorter side" in str(tailcut.inspect(tmp_path / "a.tailcut"))
    set_image_size(model, (48, 48))
    assert image_shorter_side(model) is None


@pytest.mark.parametrize(
    ("size", "side"), [((48, 48), 47), ((48, 32), 47), ((48, 48), 1 << 17), ((48, 48), 64.0), (None, 64)]
)
def test_what_is_no_shorter_side(size: Any, side: Any, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="at least the sides of the middle"):
        set_image_size(nn.Linear(2, 3), size, shorter_side=side)
    metadata = {"image_size": size, "image_shorter_side": side}
    tailcut.save(create_model("lenet5"), tmp_path / "a.tailcut", metadata=metadata)
    loaded = tailcut.load(tmp_path / "a.tailcut")
    assert (image_size(loaded), image_shorter_side(loaded)) == (size, None)
    assert str(side) in str(tailcut.inspect(tmp_path / "a.tailcut"))


def test_the_key_of_older_files_is_read(tmp_path: Path) -> None:
    tailcut.save(create_model("lenet5"), tmp_path / "old.tailcut", metadata={"picture_size": [64, 48]})
    assert image_size(tailcut.load(tmp_path / "old.tailcut")) == (64, 48)
    assert "images           64 x 48 pixels" in str(tailcut.inspect(tmp_path / "old.tailcut"))
    tailcut.save(
        create_model("lenet5"), tmp_path / "both.tailcut", metadata={"picture_size": [6, 4], "image_size": [3, 2]}
    )
    assert image_size(tailcut.load(tmp_path / "both.tailcut")) == (3, 2)
