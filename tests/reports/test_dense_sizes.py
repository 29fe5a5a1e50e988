import dataclasses

import pytest
from tests.example_result import RESULT

from tailcut.counting import count_parameters
from tailcut.errors import ArgumentError
from tailcut.reports.dense_sizes import dense_parameters
from tailcut.structure import create_model


def test_a_pruned_network_stands_for_its_parent() -> None:
    assert dense_parameters(RESULT) == RESULT.num_parameters
    recipe = {"model": {"name": "resnet20", "arguments": {"num_classes": 7}}, "pruning": {"rates": 0.5}}
    pruned = dataclasses.replace(RESULT, recipe=recipe)
    assert dense_parameters(pruned) == count_parameters(create_model("resnet20", num_classes=7))


def test_a_network_that_is_not_registered_here_is_an_error() -> None:
    pruned = dataclasses.replace(RESULT, recipe={"model": {"name": "theirs"}, "pruning": {"rates": 0.5}})
    with pytest.raises(ArgumentError, match="unknown model 'theirs'"):
        dense_parameters(pruned)
