"""What `prune` keeps, leaves, refuses and puts back. Whether the numbers are right: test_prune_oracle.py."""

import copy
import io
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.channels.slim_networks import (
    EXACT,
    Auxiliary,
    ConvNeXt,
    Encoder,
    Halves,
    OneWay,
    PaddedInCode,
    Plain,
    RigidView,
    WidthOfTraining,
    macs,
    random_scores,
    randomized,
    same_state,
    state_of,
)
from tests.own_tensors import scan
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from tailcut.channels import score
from tailcut.channels.pruning.prune import prune
from tailcut.counting import count_macs
from tailcut.errors import ArgumentError, StructureError
from tailcut.format import load, save
from tailcut.inputs import replace_stem
from tailcut.structure import create_model, record_of
from tailcut.weights import regularize

X = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", EXACT)
def test_half_of_every_group_goes(kind: str) -> None:
    case = EXACT[kind]
    model = randomized(case.build(), 0)
    report = prune(model, case.example(), random_scores(model, 0), 0.5, ignore=case.ignore)
    assert report.macs_after < report.macs_before
    locked = {part.name for part in report.skipped}
    halved = [layer for layer in report.layers if layer.name not in locked]
    assert halved
    for layer in halved:
        if kind == "grouped":  # its channels go by the dozen
            assert 1 <= layer.after < layer.before
        elif layer.before > 1:
            assert layer.after == layer.before // 2


def test_an_example_of_another_class_of_tensors_prunes_alike() -> None:
    model = randomized(EXACT["gated"].build(), 0)
    other, x = copy.deepcopy(model), EXACT["gated"].example()
    report = prune(other, scan(x), random_scores(other, 0), 0.5)
    assert report == prune(model, x, random_scores(model, 0), 0.5)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("build", [ConvNeXt, Encoder, lambda: Halves(), Auxiliary])
@pytest.mark.parametrize("rate", [0.3, 0.8])
def test_networks_whose_norms_look_at_all_channels_still_run(build: Any, rate: float) -> None:
    model = build()
    report = prune(model, X, random_scores(model, 0), rate)
    assert report.num_parameters_after < report.num_parameters_before
    assert report.macs_after == macs(model.eval(), X)
    x = torch.rand(4, 3, 16, 16)
    outputs = model.train()(x)
    sum(output.sum() for output in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()


@pytest.mark.parametrize("glu", [False, True])
def test_a_gated_linear_unit_keeps_its_halves_equal(glu: bool) -> None:
    model = randomized(Halves(glu=glu), 0)
    dense: Any = copy.deepcopy(model)
    report = prune(model, X.double(), random_scores(model, 1), 0.5)
    removed = report.layers[0].removed
    assert len(removed) == 8
    assert [place + 8 for place in removed if place < 8] == [place for place in removed if place >= 8]
    mask = torch.ones(8, dtype=torch.float64)
    mask[[place for place in removed if place < 8]] = 0
    dense.identity.register_forward_hook(lambda module, args, output: output * mask.view(1, -1, 1, 1))
    with torch.no_grad():
        torch.testing.assert_close(model(X.double()), dense(X.double()))


def test_what_the_code_fixes_is_left_with_the_reason() -> None:
    model = RigidView()
    report = prune(model, X, random_scores(model, 0), 0.5)
    assert model.conv.out_channels == 8
    assert model.hidden.out_features == 3
    (reason,) = [part.reason for part in report.skipped if part.name == "conv"]
    assert "reshaped" in reason
    assert "32" in reason
    with pytest.raises(ArgumentError, match="nothing can be pruned: conv: its channels are split"):
        prune(rigid := Halves(rigid=True), X, random_scores(rigid, 0), 0.5)


def test_layers_that_cannot_be_cut_are_named_where_nothing_is_left() -> None:
    normed = parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
    model = nn.Sequential(normed, nn.ReLU(), nn.Conv2d(8, 2, 1))
    with pytest.raises(ArgumentError, match=r"nothing can be pruned: 0: its weight is parametrised \(_WeightNorm\)"):
        prune(model, X, {"0": torch.ones(8)}, 0.5)


def test_attention_is_left_with_the_reason() -> None:
    model = create_model("vit", image_size=16, width=16, depth=1, num_heads=2, mlp_width=24)
    report = prune(model, X, random_scores(model, 0), 0.5, ignore="patch_embedding")
    reasons = {part.name: part.reason for part in report.skipped}
    assert "attention" in reasons["blocks.0.attention.qkv"]
    assert reasons["patch_embedding"] == "ignored"
    assert {layer.name: layer.after for layer in report.layers}["blocks.0.mlp.0"] == 12
    model = Encoder()
    reasons = {part.name: part.reason for part in prune(model, X, random_scores(model, 0), 0.5).skipped}
    assert "nn.MultiheadAttention" in reasons["encoder.self_attn"]


def test_layers_that_run_in_training_only_are_narrowed_too() -> None:
    model: Any = Auxiliary()
    before = copy.deepcopy(model.state_dict())
    report = prune(model, X, random_scores(model, 0), 0.5)
    assert model.auxiliary[0].in_features == model.conv.out_channels == 8
    assert model.auxiliary[0].out_features == 3
    kept = [place for place in range(16) if place not in report.layers[0].removed]
    assert torch.equal(model.norm.running_mean, before["norm.running_mean"][kept])  # the forward in training is undone
    assert int(model.norm.num_batches_tracked) == 0


def test_a_layer_that_never_runs_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Idle(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("idle", nn.ModuleDict({"spare": nn.Conv2d(8, 8, 1)}))

        def forward(self, x: Tensor) -> Tensor:
            for module in list(self)[:-1]:
                x = module(x)
            return x

    network: Any = Idle()
    report = prune(network, X, random_scores(Plain(), 0), 0.5)
    assert [part.name for part in report.skipped if "did not run" in part.reason] == ["idle.spare"]
    assert network.idle["spare"].in_channels == 8
    assert "did not run on the example input: idle.spare; where another input runs them" in caplog.text


class UsedByCode(nn.Module):
    """A layer that shares its weight with one that runs, and one whose weight the forward uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twin, self.last = nn.Conv1d(2, 8, 1), nn.Conv1d(2, 8, 1), nn.Conv1d(8, 2, 1)
        self.twin.weight, self.twin.bias = self.first.weight, self.first.bias
        self.taken = nn.Conv1d(8, 8, 3, groups=8)
        self.wide, self.narrow = nn.Conv1d(2, 6, 1), nn.Conv1d(6, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2, length - 2)."""
        y = functional.conv1d(self.first(x), self.taken.weight, self.taken.bias, groups=8)
        total: Tensor = self.last(y.relu()) + self.narrow(self.wide(x).relu())
        return total


def test_layers_that_were_used_without_a_call_are_told_from_idle_ones(caplog: pytest.LogCaptureFixture) -> None:
    model = UsedByCode()
    scores = {
        name: torch.rand(part.out_channels) for name, part in model.named_modules() if isinstance(part, nn.Conv1d)
    }
    report = prune(model, torch.rand(1, 2, 9), scores, 0.3)
    assert "did not run" not in caplog.text
    reasons = {part.name: part.reason for part in report.skipped}
    assert reasons["taken"] == (
        "it was not called, and the network's code uses its weight, so nothing is known of its channels"
    )
    assert "twin" not in reasons
    assert model.wide.out_channels < 6


def test_frozen_layers_stay_frozen_and_tied_ones_tied() -> None:
    model: Any = EXACT["shared"].build()
    model.stem.weight.requires_grad_(False)
    prune(model, X, random_scores(model, 0), 0.5)
    assert model.stem.out_channels == 4
    assert not model.stem.weight.requires_grad
    assert model.left.weight is model.right.weight
    assert model.left.weight.requires_grad
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    prune(model, X, random_scores(model, 0), 0.5)
    assert model.stem.out_channels == 2


def test_several_prunings_in_a_row_are_one_edit() -> None:
    case = EXACT["residual, option A"]
    dense = randomized(case.build(), 3)
    model = copy.deepcopy(dense)
    x = case.example()
    for _ in range(3):
        prune(model, x, random_scores(model, 5), 0.25)
    assert len(record_of(model).edits) == 1
    rebuilt = case.build()
    record_of(model).edits[0].apply(rebuilt)
    rebuilt.double().load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(x), model.eval()(x))


def test_ignored_layers_minimum_widths_and_multiples() -> None:
    model = create_model("resnet20", width=16)
    report = prune(model, X, random_scores(model, 0), 0.7, ignore=("layer1.*", "layer3"), min_channels=6, round_to=4)
    after = {layer.name: (layer.before, layer.after) for layer in report.layers}
    assert after["layer1.0.conv1"] == (16, 16)
    assert after["conv1"] == (16, 16)  # goes with layer1.*.conv2
    assert after["layer3.0.conv2"] == (64, 64)
    assert after["layer2.0.conv1"] == (32, 12)  # 9 rounded up to a multiple
    # Sixteen of its channels lie beside those of layer 1, which stay.
    assert after["layer2.0.conv2"] == (32, 16)
    assert {part.reason for part in report.skipped} == {"ignored", "the network's output"}
    model = Plain()
    report = prune(model, X, random_scores(model, 0), 0.9, min_channels=5)
    assert [layer.after for layer in report.layers] == [5, 5, 5, 3]
    report = prune(model := Plain(), X, random_scores(model, 0), 0.9, max_rate=0.25)
    assert [layer.after for layer in report.layers] == [6, 8, 9, 3]  # of 8, 10, 12: at most a quarter goes


def test_the_lowest_scores_go() -> None:
    model = Plain()
    scores = {"0": torch.tensor([5.0, 1, 7, 2, 8, 3, 9, 4]), "4": torch.arange(10.0)}
    report = prune(model, X, scores, {"0": 0.5, "4": 0.3})
    assert report.layers[0].removed == (1, 3, 5, 7)
    assert report.layers[1].removed == (0, 1, 2)
    assert {part.name: part.reason for part in report.skipped}["7"] == (
        "no scores were given for it; in Python channels.score(layers=['7', ...]) makes some"
    )


def test_of_layers_that_are_added_the_mean_counts_and_a_named_one_alone() -> None:
    model = create_model("resnet18", width=4, small_input=True, num_classes=3)
    first, rest = torch.tensor([1.0, 2, 3, 10]), torch.tensor([30.0, 40, 20, 10])
    scores = {"conv1": first, "layer1.0.conv2": rest, "layer1.1.conv2": rest}
    report = prune(copy.deepcopy(model), X, scores, 0.25)
    assert report.layers[0].removed == (2,)  # (0.25+1.2+1.2, 0.5+1.6+1.6, 0.75+0.8+0.8, 2.5+0.4+0.4) / 3
    report = prune(copy.deepcopy(model), X, scores, {"conv1": 0.25})
    assert report.layers[0].removed == (0,)
    report = prune(copy.deepcopy(model), X, scores, {"layer1.1.conv2": 0.25})
    assert report.layers[0].removed == (3,)


def test_a_pruned_network_can_be_copied_and_pickled() -> None:
    model = create_model("resnet20", width=8)
    prune(model, X, random_scores(model, 0), 0.5)
    x = torch.rand(2, 3, 16, 16)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), model.eval()(x))
        assert torch.equal(copy.deepcopy(model)(x), model(x))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_random_state_mode_and_buffers_are_left_alone() -> None:
    model = Plain().train()
    model[1].eval()
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        prune(model, X, random_scores(model, 0), 0.5)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model] == [place != 1 for place in range(10)]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_without_gradients_leave_parameters_that_can_be_trained(mode: Any) -> None:
    model = create_model("resnet20", width=8)
    with mode():
        report = prune(model, X, random_scores(model, 0), 0.5)
    assert report.layers[0].after == 4
    model.train()(X.repeat(2, 1, 1, 1)).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


GOOD = {"0": torch.arange(8.0), "4": torch.arange(10.0)}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"rates": 1.0}, "it would lose all its channels"),
    ({"rates": -0.1}, "from 0 up to 1"),
    ({"rates": float("nan")}, "from 0 up to 1"),
    ({"rates": {"0": 1.5}}, "the rate of 0 must be"),
    ({"rates": [0.5]}, "expected 3 rates, one for each of 0, 4, 7; got 1. 7 has no scores: give it 0$"),
    ({"rates": [0.5], "scores": {"0": torch.arange(8.0)}}, "got 1. 4, 7 have no scores: give each of them 0$"),
    (
        {"rates": [0.5], "scores": {name: torch.arange(size) for name, size in (("0", 8.0), ("4", 10.0), ("7", 12.0))}},
        "got 1$",
    ),
    ({"rates": [0.5, 0.5, 0.5]}, "7 shall be pruned, but the scores name none of 7: give it the rate 0, or scores"),
    (
        {"rates": {"nowhere": 0.5}},
        "a rate is given for 'nowhere': expected a layer with prunable channels, found noth",
    ),
    ({"rates": {"1": 0.5}}, "found a BatchNorm2d"),
    ({"rates": {"9": 0.5}}, "9, which cannot be pruned: the network's output"),
    ({"rates": {"7": 0.5}}, "7 shall be pruned, but the scores name none of 7"),
    ({"rates": "best"}, "one of paper, extended; got 'best'"),
    ({"rates": "paper"}, "no paper rates for a network of your own class"),
    ({}, "give one of rates, macs_ratio and params_ratio"),
    ({"scores": 0.3}, "give one of rates, .*; 0.3 stands in the place of the scores"),
    ({"rates": 0.5, "macs_ratio": 0.5}, "give one of rates"),
    ({"macs_ratio": 0.0}, "macs_ratio must be above 0"),
    ({"params_ratio": 1.5}, "params_ratio must be above 0"),
    ({"macs_ratio": 0.001}, "cannot be reached"),
    ({"rates": 0.5, "min_channels": 0}, "min_channels must be an integer"),
    ({"rates": 0.5, "round_to": 1.5}, "round_to must be an integer"),
    ({"rates": 0.5, "max_rate": 0.0}, "max_rate must be above 0"),
    ({"rates": 0.5, "ignore": "conv*"}, "no module is named 'conv\\*'"),
    ({"rates": 0.5, "scores": {"0": torch.arange(7.0)}}, "scores of 0 must be 8 numbers, one per channel"),
    ({"rates": 0.5, "scores": {"0": torch.full((8,), float("nan"))}}, "hold NaN or infinity"),
    ({"rates": 0.5, "scores": {"0": torch.ones(8, 1)}}, "they have shape \\(8, 1\\)"),
    ({"rates": 0.5, "scores": {"first": torch.ones(8)}}, "a layer 'first', which Plain does not have"),
    ({"rates": 0.5, "scores": {"0": ["a"] * 8}}, "must be a vector of numbers"),
    ({"rates": 0.5, "scores": [1, 2]}, "must map names of layers"),
    ({"rates": 0.5, "scores": X, "example_input": GOOD}, "got Tensor; the network comes first, then an example input"),
    ({"rates": 0.5, "scores": {}}, "nothing can be pruned: .*the scores name none"),
    ({"rates": 0.5, "example_input": torch.rand(1, 4, 16, 16)}, "does not run on an input of shape \\(1, 4, 16, 16\\)"),
    ({"rates": 0.5, "example_input": [X, 1]}, "example_input must be a tensor, .* got list of Tensor, int$"),
    ({"rates": 0.5, "example_input": ()}, "example_input must be a tensor, a tuple of tensors, or a dict"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_told_and_changes_nothing(arguments: dict[str, Any], message: str) -> None:
    model = Plain().train()
    before = state_of(model)
    chosen = {"example_input": X, "scores": GOOD, **arguments}
    with pytest.raises(ArgumentError, match=message):
        prune(model, **chosen)
    assert same_state(before, state_of(model))


def test_rates_of_layers_that_go_together_must_agree() -> None:
    model = create_model("resnet18", width=4, small_input=True)
    with pytest.raises(ArgumentError, match=r"conv1 and layer1\.0\.conv2 lose the same channels"):
        prune(model, X, random_scores(model, 0), {"conv1": 0.5, "layer1.0.conv2": 0.25})
    prune(model, X, random_scores(model, 0), {"conv1": 0.5, "layer1.0.conv2": 0.5})


def test_a_network_runs_four_times() -> None:
    modes: list[tuple[bool, bool]] = []
    model = Plain()
    model.register_forward_pre_hook(lambda module, args: modes.append((module.training, torch.is_grad_enabled())))
    report = prune(model, X, GOOD, 0.25)
    assert modes == [(False, False), (True, False), (False, True), (False, False)]
    assert report.macs_after == count_macs(model, X).total


def test_a_width_that_code_fixes_in_training_stays() -> None:
    model = WidthOfTraining().eval()
    whole = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), model)
    report = prune(whole, X, {"0": torch.rand(4), "3.first": torch.rand(8)}, rates=0.25)
    assert {layer.name: layer.after for layer in report.layers} == {"0": 3, "2": 3, "3.first": 8, "3.last": 3}


def test_an_interruption_rolls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Plain()
    before = state_of(model)

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[prune.__module__], "verify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prune(model, X, GOOD, {"0": 0.5})
    assert same_state(before, state_of(model))


def test_regularised_and_parametrised_networks() -> None:
    model = Plain()
    regularize(model, keep_ratio=0.5)
    with pytest.raises(StructureError, match="prune first, then regularise"):
        prune(model, X, GOOD, 0.5)
    part = Plain()
    regularize(part[4], keep_ratio=0.5)  # not recorded on the network itself
    report = prune(part, X, random_scores(Plain(), 0), 0.5)
    reasons = {left.name: left.reason for left in report.skipped}
    assert "parametrised (Truncation); prune first" in reasons["0"]
    assert reasons["0"].startswith("goes into 4: ")
    assert part[7].out_features == 6
    normed = Plain()
    parametrizations.weight_norm(normed[4])
    report = prune(normed, X, random_scores(Plain(), 0), 0.5)
    assert normed[0].out_channels == 8
    assert normed[7].out_features == 6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        old = nn.utils.weight_norm(Plain()[4])
    network = Plain()
    network[4] = old
    reasons = {left.name: left.reason for left in prune(network, X, random_scores(Plain(), 0), 0.5).skipped}
    assert "computed by a hook" in reasons["0"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("Plain", "model must be a torch.nn.Module"),
        (nn.DataParallel(Plain()), "DataParallel is a wrapper: prune the network itself"),
        (nn.Sequential(nn.LazyConv2d(4, 1)), "not initialised yet"),
        (Plain().to("meta"), "meta device"),
        (nn.Sequential(nn.ReLU()), "nothing can be pruned: no layer has prunable channels"),
    ],
)
def test_what_is_no_network_to_prune(model: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        prune(model, X, {}, 0.5)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_a_part_in_torchscript_is_refused() -> None:
    """Torch takes no hooks of it: this ended in a RuntimeError of torch's."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(torch.jit.script(nn.Conv2d(8, 8, 3))))
    with pytest.raises(
        ArgumentError, match=r"^1\.0 is of TorchScript, whose layers can neither be followed nor narrowed"
    ):
        prune(model, X, {}, 0.5)


def test_a_module_of_torch_export_is_refused() -> None:
    """It has no training mode: this ended in a NotImplementedError of torch's."""
    exported = torch.export.export(Plain().eval(), (X,)).module()
    with pytest.raises(ArgumentError, match=r"a module of torch\.export.*prune the torch\.nn\.Module"):
        prune(exported, X, {}, 0.5)


def test_networks_of_inference_mode_are_refused() -> None:
    """Torch lets nobody change such numbers; a network made outside can be pruned within it, and trains on."""
    with torch.inference_mode():
        made_inside = Plain()
    with pytest.raises(ArgumentError, match=r"built or loaded under torch\.inference_mode"):
        prune(made_inside, X, random_scores(Plain(), 0), 0.5)
    model = Plain()
    with torch.inference_mode():
        prune(model, X, random_scores(Plain(), 0), 0.5)
    model.train()(X).sum().backward()
    assert model[0].out_channels == 4


def test_a_budget_is_met_from_below() -> None:
    for name, key in (("macs_ratio", "macs_ratio"), ("params_ratio", "params_ratio")):
        for target in (0.9, 0.5, 0.2):
            model = create_model("resnet20", width=16)
            amount: dict[str, Any] = {name: target}
            report = prune(model, X, random_scores(model, 0), **amount)
            reached = getattr(report, key)
            assert target - 0.03 < reached <= target, (name, target, reached)


def test_inputs_may_be_a_tuple() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(2, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"out": self.head(torch.relu(self.left(x)) + torch.relu(self.right(y)))}

    model = Two()
    report = prune(model, (torch.rand(1, 3, 4, 4), torch.rand(1, 2, 4, 4)), random_scores(model, 0), 0.5)
    assert (model.left.out_channels, model.right.out_channels, model.head.in_channels) == (4, 4, 4)
    assert report.layers[0].removed == report.layers[1].removed


def test_padded_in_code_keeps_what_it_pads() -> None:
    model = PaddedInCode()
    report = prune(model, X, random_scores(model, 0), 0.5)
    assert [layer.after for layer in report.layers] == [4, 12, 4]
    (left,) = [part for part in report.skipped if part.name == "second"]
    assert left.channels == 8


def test_limits_that_let_nothing_go_are_named() -> None:
    report = prune(model := Plain(), X, random_scores(model, 0), {"0": 0.25, "4": 0.5}, round_to=5)
    assert [layer.after for layer in report.layers] == [8, 5, 12, 3]
    assert [(part.name, part.channels) for part in report.skipped if part.reason == "round_to=5 lets none go"] == [
        ("0", 8)
    ]


def test_rates_that_are_no_python_numbers() -> None:
    for rates in (np.float32(0.5), torch.tensor(0.5), [np.float64(0.5)] * 3):
        report = prune(model := Plain(), X, random_scores(model, 0), rates)  # type: ignore[arg-type]
        assert report.layers[0].after == 4
    for wrong in (np.array([0.5] * 3), torch.tensor([0.5] * 3), True):
        with pytest.raises(ArgumentError, match="rates must be one number, a list of numbers, a dict by layer or"):
            prune(model := Plain(), X, random_scores(model, 0), wrong)  # type: ignore[arg-type]
    assert prune(model, X, random_scores(model, 0), macs_ratio=np.float32(0.5)).macs_ratio <= 0.5  # type: ignore[arg-type]


@pytest.mark.parametrize("ignore", [3, None, ["0", 3]])
def test_what_is_no_pattern_of_names(ignore: Any) -> None:
    with pytest.raises(ArgumentError, match="ignore must be a pattern on names of layers, or a list of such; got"):
        prune(Plain(), X, GOOD, 0.5, ignore=ignore)


def test_a_network_that_never_ran_backward_is_pruned() -> None:
    report = prune(model := OneWay(), X, random_scores(model, 0), 0.5)
    assert model[0].out_channels == report.layers[0].after == 4


def test_dropout_of_channels_holds_no_layer() -> None:
    case = EXACT["dropped channels and paths"]
    model = randomized(case.build(), 0)
    report = prune(model, case.example(), random_scores(model, 0), 0.5)
    assert [(part.name, part.reason) for part in report.skipped] == [("head", "the network's output")]
    assert [layer.after for layer in report.layers if layer.name in ("stem", "inner", "outer", "last")] == [4, 6, 4, 5]


def test_a_grouped_convolution_of_one_channel_per_group_is_not_taken_for_a_depthwise_one() -> None:
    case = EXACT["grouped"]
    model = randomized(case.build(), 0)
    report = prune(model, case.example(), random_scores(model, 0), {"stem": 0.9})
    assert [layer.after for layer in report.layers if layer.name == "stem"] == [4]


@pytest.mark.parametrize("is_loaded", [False, True])
@pytest.mark.parametrize("amount", [{"rates": 0.5}, {"rates": {"layer1.0.conv1": 0.5}}, {"macs_ratio": 0.7}])
def test_a_network_with_a_gate_is_pruned_before_its_first_run(
    amount: dict[str, Any], is_loaded: bool, tmp_path: Path
) -> None:
    model = create_model("resnet18", width=4, num_classes=3)
    replace_stem(model, 24, gate=True, image_size=(64, 64))
    if is_loaded:
        save(model, tmp_path / "a.tailcut")
        model = load(tmp_path / "a.tailcut")
    x = torch.rand(2, 24, 8, 8)
    scores = score(model, method="l1")
    warm = copy.deepcopy(model)
    warm.eval()(x)
    report = prune(model, x, scores, **amount)
    assert report.layers == prune(warm, x, scores, **amount).layers
    assert report.macs_after < report.macs_before


class Remembering(nn.Module):
    """Keeps sums of what it gave; with `grows`, all of it, which it looks at again each time."""

    def __init__(self, *, grows: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.grows = grows
        self.sums: Tensor | None = None
        self.given: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.first(x).relu())
        sums = y.detach().sum((0, 2, 3))
        self.sums = sums if self.sums is None else self.sums + sums
        if self.grows:
            self.given.append(sums)
            for before in self.given:
                y = y + before.sum() * y
        return y


@pytest.mark.parametrize("amount", [{"rates": 0.5}, {"rates": [0.5]}, {"rates": {"first": 0.5}}, {"macs_ratio": 0.5}])
def test_a_network_that_remembers_earlier_runs(amount: dict[str, Any]) -> None:
    model = Remembering()
    report = prune(model, X, {"first": torch.arange(8.0)}, **amount)
    assert {layer.name: layer.removed for layer in report.layers} == {"first": (0, 1, 2, 3), "last": ()}
    model = Remembering(grows=True)
    before = state_of(model)
    with pytest.raises(
        StructureError, match=r"does not do the same .* on chance, or on earlier runs\? Nothing was removed"
    ):
        prune(model, X, {"first": torch.arange(8.0)}, **amount)
    assert same_state(before, state_of(model))


class Averaging(nn.Module):
    """A mean over channels, as of CBAM; half of them are empty."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)
        for parameter in self.first.parameters():
            nn.init.zeros_(parameter[4:])

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        y: Tensor = self.last(self.second(x * x.mean(1, keepdim=True)).relu())
        return y


def test_a_mean_over_channels_is_noted() -> None:
    """It may be cut, but then it is that of fewer: twice as large where half of them were empty."""
    model = Averaging().eval()
    before = model.second(model.first(X).relu() * model.first(X).relu().mean(1, keepdim=True)).detach()
    report = prune(model, X, score(model, method="l1", layers=["first"]), {"first": 0.5})
    assert [layer.after for layer in report.layers] == [4, 6, 2]
    assert [(note.name, note.note) for note in report.notes] == [
        ("first", "averaged over its channels, in the network's forward: the mean is that of those left")
    ]
    after = model.second(model.first(X).relu() * model.first(X).relu().mean(1, keepdim=True)).detach()
    bias = model.second.bias.detach().view(1, -1, 1, 1)  # type: ignore[union-attr]
    torch.testing.assert_close(after - bias, 2 * (before - bias))
    other = Averaging().eval()
    assert not prune(other, X, {"second": torch.rand(6)}, {"second": 0.5}).notes, "of what stays nothing is to be said"


def test_limits_that_let_nothing_go_at_all_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    model = Plain()
    before = state_of(model)
    prune(model, X, random_scores(model, 0), 0.5, round_to=100)
    assert [record.message for record in caplog.records] == ["nothing was removed: 0, 4, 7: round_to=100 lets none go"]
    caplog.clear()
    prune(model, X, random_scores(model, 0), 0.0)
    prune(model, X, random_scores(model, 0), {"0": 0.0}, round_to=100)
    prune(model, X, random_scores(model, 0), macs_ratio=1.0, round_to=100)
    assert not caplog.records
    assert same_state(before, state_of(model))


def test_where_nothing_can_be_pruned_the_layers_are_named() -> None:
    model = create_model("resnet18", width=4, small_input=True)
    with pytest.raises(ArgumentError) as error:
        prune(model, X, random_scores(model, 0), 0.5, ignore=("conv1", "layer*"))
    assert str(error.value) == (
        "nothing can be pruned: conv1, layer1.0.conv1, layer1.0.conv2 and 17 more: ignored; fc: the network's output"
    )


class Standardized(nn.Conv2d):
    """Standardises its weights, as many write it: by an unbiased standard deviation."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.flatten(1).std(1).view(-1, 1, 1, 1) + 1e-5)
        return functional.conv2d(x, weight, self.bias)


@pytest.mark.filterwarnings("ignore:std.*degrees of freedom")
def test_a_network_of_finite_outputs_keeps_them_or_is_put_back() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), Standardized(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1)
    ).eval()
    x, before = torch.randn(1, 3, 8, 8), copy.deepcopy(network.state_dict())
    scores = {"0": torch.arange(8.0)}
    with pytest.raises(StructureError, match=r"gives numbers that are not finite.*for example by min_channels"):
        prune(network, x, scores, 0.9)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    prune(network, x, scores, 0.9, min_channels=2)
    assert network(x).isfinite().all()
    nan = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1))
    nn.init.constant_(nan.get_parameter("0.weight"), torch.nan)
    assert prune(nan, x, scores, 0.5).layers[0].after == 4  # it gave none before


class Gated(nn.Module):
    """A depthwise convolution, whose channels code that splits them fixes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.split = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 17, 1)
        self.depthwise, self.out = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, keys, gate = self.split(self.stem(x).relu()).split([8, 8, 1], 1)
        y: Tensor = self.out(self.depthwise(keys) * gate * query)
        return y


def test_a_depthwise_layer_whose_channels_are_fixed_is_named() -> None:
    network, x = Gated().eval(), torch.randn(1, 3, 8, 8)
    scores = score(network, [x])
    with pytest.raises(ArgumentError, match="found a Conv2d; it passes on channels one by one, and these must stay"):
        prune(network, x, scores, {"depthwise": 0.5})
    skipped = {item.name: (item.channels, item.reason) for item in prune(network, x, scores, 0.5).skipped}
    assert skipped["depthwise"] == (8, "it passes on channels one by one, and these must stay")
    first = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
    report = prune(first, x, score(first, [x]), 0.5)
    assert ("0", 3) in {(item.name, item.channels) for item in report.skipped}


def test_a_pruned_file_keeps_the_layout_of_the_network_that_takes_it(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    prune(network, torch.randn(1, 3, 8, 8), {"0": torch.arange(8.0)}, 0.5)
    save(network, tmp_path / "a.tailcut")
    other: Any = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    other.to(memory_format=torch.channels_last)
    loaded: Any = load(tmp_path / "a.tailcut", into=other)
    assert torch.equal(loaded[0].weight, network.get_parameter("0.weight"))
    assert loaded[0].weight.is_contiguous(memory_format=torch.channels_last)
