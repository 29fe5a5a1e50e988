"""What predictions for images have in common."""

import json
from pathlib import Path

import pytest
import torch

from tailcut.data import reading
from tailcut.errors import ArgumentError, DataError
from tailcut.tasks.prediction.outputs import (
    PredictReport,
    check_table,
    paths_of_output,
    read_each,
    shown_class,
    write_table,
)


def test_outputs_are_named_like_their_images(tmp_path: Path) -> None:
    images = [tmp_path / "a.jpg", tmp_path / "b.png"]
    assert paths_of_output(images, tmp_path / "masks", "mask") == {
        images[0]: tmp_path / "masks" / "a.png",
        images[1]: tmp_path / "masks" / "b.png",
    }
    with pytest.raises(ArgumentError, match="several images are named a: their masks would have one name"):
        paths_of_output([tmp_path / "a.jpg", tmp_path / "other" / "a.png"], tmp_path, "mask")
    images[1].touch()
    with pytest.raises(ArgumentError, match=r"the mask of .*b\.png would replace it"):
        paths_of_output(images, tmp_path, "mask")


def test_only_a_table_of_predictions_is_replaced(tmp_path: Path) -> None:
    check_table(tmp_path)
    write_table(tmp_path, PredictReport("a.tailcut", "classification", [], 0.5))
    check_table(tmp_path)
    assert json.loads((tmp_path / "predictions.json").read_text())["source"] == "a.tailcut"
    (tmp_path / "predictions.json").write_text("[1, 2]")
    with pytest.raises(ArgumentError, match="is no table of predictions, and would be replaced"):
        check_table(tmp_path)


def test_broken_images_are_left_out_or_end_it(tmp_path: Path) -> None:
    def read(path: Path) -> torch.Tensor:
        if path.name == "bad":
            raise DataError("bad is damaged")
        return torch.zeros(1)

    good, bad = tmp_path / "good", tmp_path / "bad"
    with pytest.raises(DataError, match="bad is damaged"):
        list(read_each([good, bad], read, []))
    skipped: list[dict[str, str]] = []
    with reading(on_error="skip"):
        assert [path for path, _ in read_each([bad, good], read, skipped)] == [good]
        assert skipped == [{"image": str(bad), "reason": "bad is damaged"}]
        with pytest.raises(DataError, match="none of the 1 images could be read"):
            list(read_each([bad], read, []))


def test_classes_are_shown_with_their_names() -> None:
    assert (shown_class(3, "cat"), shown_class(3, None)) == ("3 cat", "3")
