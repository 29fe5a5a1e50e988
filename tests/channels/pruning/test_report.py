import dataclasses
import json

import torch
from tests.channels.slim_networks import ConcatenatedDepthwise

from tailcut.channels.pruning.prune import prune
from tailcut.channels.pruning.report import PrunedLayer, PruneNote, PruneReport, SkippedChannels, by_reason

REPORT = PruneReport(
    macs_before=1_000_000,
    macs_after=480_000,
    num_parameters_before=2000,
    num_parameters_after=1500,
    layers=(PrunedLayer("conv", "conv", 8, 6, (1, 5)), PrunedLayer("depthwise", "conv", 16, 12, (2, 3, 10, 11))),
    skipped=(SkippedChannels("head", 4, "the network's output"),),
)


def test_it_prints_as_tables() -> None:
    assert str(REPORT) == (
        "layer      goes with  channels  kept\n"
        "---------  ---------  --------  ----\n"
        "conv                         8     6\n"
        "depthwise  conv             16    12\n"
        "\n"
        "               before    after\n"
        "----------  ---------  -------  -------\n"
        "MACs        1,000,000  480,000  -52.0 %\n"
        "parameters      2,000    1,500  -25.0 %\n"
        "\n"
        "not pruned  channels  why\n"
        "----------  --------  --------------------\n"
        "head               4  the network's output"
    )
    assert REPORT.macs_ratio == 0.48
    assert REPORT.params_ratio == 0.75


def test_it_goes_through_json() -> None:
    content = json.loads(REPORT.to_json())
    keys = ["macs_before", "macs_after", "num_parameters_before", "num_parameters_after", "layers", "skipped", "notes"]
    assert list(content) == keys
    assert content["layers"][0] == {"name": "conv", "group": "conv", "before": 8, "after": 6, "removed": [1, 5]}
    assert content["skipped"] == [{"name": "head", "channels": 4, "reason": "the network's output"}]


def test_a_pruning_fills_it() -> None:
    scores = {"conv": torch.tensor([9.0, 0, 9, 9, 9, 1, 9, 9])}
    report = prune(ConcatenatedDepthwise(), torch.rand(1, 3, 4, 4), scores, 0.25)
    assert report.layers[:2] == REPORT.layers
    assert report.skipped == REPORT.skipped
    empty = PruneReport(0, 0, 0, 0, (), ())
    assert empty.macs_ratio == empty.params_ratio == 0
    assert "not pruned" not in str(empty)


def test_notes_are_a_table_of_their_own() -> None:
    noted = dataclasses.replace(REPORT, notes=(PruneNote("conv", "averaged over its channels"),))
    assert str(noted) == (
        f"{REPORT}\n\npruned  note\n------  --------------------------\nconv    averaged over its channels"
    )
    assert json.loads(noted.to_json())["notes"] == [{"name": "conv", "note": "averaged over its channels"}]


def test_layers_of_one_reason_are_named_together() -> None:
    many = [(f"layer{number}", "ignored") for number in range(5)]
    assert by_reason([*many, ("head", "the output")]) == "layer0, layer1, layer2 and 2 more: ignored; head: the output"
    assert by_reason([]) == ""
