import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import GraphModule, symbolic_trace

import tailcut
from tailcut.inputs import image_size, set_image_size
from tailcut.structure import record_of
from tailcut.structure.attributes import set_attribute

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("traced", [False, True])
def test_a_copy_has_the_attribute_until_it_is_removed(traced: bool) -> None:
    model = symbolic_trace(plain()) if traced else plain()
    set_attribute(model, "noted", [1, 2])
    copied = copy.deepcopy(model)
    assert copied.noted == [1, 2]
    assert copied.noted is not model.noted
    set_attribute(model, "noted", None)
    set_attribute(model, "noted", None)
    assert not hasattr(copy.deepcopy(model), "noted")
    assert hasattr(copied, "noted")


def test_a_graph_module_without_meta_is_given_some() -> None:
    """As torchvision's `create_feature_extractor` makes them."""
    model = symbolic_trace(plain())
    del model.meta
    set_attribute(model, "noted", 1)
    assert copy.deepcopy(model).noted == 1


def test_copies_of_a_traced_network_keep_all_that_tailcut_knows(tmp_path: Path) -> None:
    model = symbolic_trace(plain()).eval()
    tailcut.regularize(model, num_kept=9)
    tailcut.set_class_names(model, ["a", "b", "c"])
    set_image_size(model, (4, 5))
    copied = copy.deepcopy(model)
    assert isinstance(copied, GraphModule)
    assert record_of(copied) == record_of(model)
    assert tailcut.class_names(copied) == ("a", "b", "c")
    assert image_size(copied) == (4, 5)
    tailcut.set_class_names(copied, None)
    set_image_size(copied, None)
    again = copy.deepcopy(copied)
    assert tailcut.class_names(again) is None
    assert image_size(again) is None
    tailcut.save(copied, tmp_path / "copied.tailcut")
    loaded = tailcut.load(tmp_path / "copied.tailcut", into=plain())
    assert tailcut.weights.kept_counts(loaded) == {"0.weight": 9, "2.weight": 9}
    torch.testing.assert_close(loaded(X), model(X))


def test_a_traced_network_is_compressed_with_its_edits(tmp_path: Path) -> None:
    model = symbolic_trace(plain()).eval()
    tailcut.regularize(model, num_kept=9)
    tailcut.compress(model, tmp_path / "small.tailcut", [X] * 4, step=0.001)
    loaded = tailcut.load(tmp_path / "small.tailcut", into=plain())
    assert tailcut.weights.kept_counts(loaded) == {"0.weight": 9, "2.weight": 9}
    torch.testing.assert_close(loaded(X), model(X), rtol=0, atol=0.02)
