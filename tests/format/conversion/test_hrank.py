"""The oracle: their networks on torch's functions, with the tensors under their own names (see published.py)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.format.conversion.published import NETWORKS, PublishedNetwork, filled, mobilenet_v2, resnet
from tests.format.conversion.stored import stored
from torch import Tensor, nn

import tailcut
from tailcut.channels import score
from tailcut.counting import count_macs
from tailcut.errors import ArgumentError, DataError, ModelMismatchError
from tailcut.format.conversion import hrank

CONSTANTS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def normalized(pixels: Tensor, which: str) -> Tensor:
    mean, spread = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in CONSTANTS[which])
    return (pixels - mean) / spread


def check_outputs(network: nn.Module, published: PublishedNetwork, tensors: dict[str, Tensor]) -> None:
    pixels = torch.rand(2, 3, published.side, published.side, dtype=torch.float64)
    with torch.inference_mode():
        found = network.double()(pixels)
    expected = published.run(tensors, normalized(pixels, published.normalize))
    assert expected.std() > 1e-3 * expected.abs().max()  # outputs that tell images and classes apart
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


SMALL = ("resnet56", "densenet40")
SAVED = ("resnet56", "densenet40", "googlenet_cifar", "mobilenetv2")


@pytest.mark.parametrize(
    ("name", "is_pruned"),
    [*((name, True) for name in NETWORKS), *((name, False) for name in SMALL)],
    ids=lambda value: value if isinstance(value, str) else ("pruned" if value else "original"),
)
def test_outputs_are_those_of_the_published_network(name: str, is_pruned: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    published = NETWORKS[name]
    tensors = filled(published.shapes(published.rates if is_pruned else published.originals))
    path = stored(tmp_path / "model_best.pth.tar", {"epoch": 3, "state_dict": tensors, "best_top1_acc": 9.5})
    network = hrank.convert(path)
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    if name in SAVED:
        tailcut.save(network, tmp_path / "a.tailcut")
        network = tailcut.load(tmp_path / "a.tailcut")
        assert tailcut.inspect(tmp_path / "a.tailcut").model == name
    check_outputs(network, published, tensors)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("vgg16_bn_cifar", 2.76e6, 131.17e6),
        ("resnet56", 0.66e6, 90.35e6),
        ("googlenet_cifar", 2.86e6, 0.65e9),
        ("resnet50", 15.09e6, 2.26e9),
    ],
)
def test_pruned_networks_have_the_size_that_the_paper_says(
    name: str, parameters: float, macs: float, tmp_path: Path
) -> None:
    published = NETWORKS[name]
    network = hrank.convert(stored(tmp_path / "a.pt", filled(published.shapes(published.rates))))
    # Theirs are without batch norm.
    counted = sum(p.numel() for p in network.parameters())
    counted -= sum(p.numel() for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert counted == pytest.approx(parameters, rel=0.006)
    side = 224 if name == "resnet50" else 32
    assert count_macs(network.to("meta"), torch.empty(1, 3, side, side)).total == pytest.approx(macs, rel=0.012)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_names_of_data_parallel_and_no_counters(prefix: str, tmp_path: Path) -> None:
    """Files from before torch 0.4.1 have no counters of batches."""
    published = NETWORKS["densenet40"]
    tensors = filled(published.shapes(published.originals))
    old = {f"{prefix}{name}": x for name, x in tensors.items() if not name.endswith("num_batches_tracked")}
    check_outputs(hrank.convert(stored(tmp_path / "a.pt", old)), published, tensors)


def test_zeroed_filters_of_hrank(tmp_path: Path) -> None:
    """The first HRank keeps the shapes and sets what it prunes to zero."""
    published = NETWORKS["vgg16_bn_cifar"]
    tensors = filled(published.shapes(published.originals))
    for name in ("conv0.weight", "conv0.bias", "norm0.weight", "norm0.bias"):
        tensors[f"features.{name}"][10:50] = 0
    network = hrank.convert(stored(tmp_path / "a.pt", tensors), model="vgg16_bn_cifar")
    check_outputs(network, published, tensors)


def test_arguments(tmp_path: Path) -> None:
    published = NETWORKS["resnet56"]
    path = stored(tmp_path / "a.pt", filled(published.shapes(published.originals)))
    network = hrank.convert(path, arguments={"normalize": False, "num_classes": 10})
    assert isinstance(network.normalize, nn.Identity)
    with pytest.raises(ArgumentError, match="the checkpoint says num_classes = 10, the argument says 100"):
        hrank.convert(path, arguments={"num_classes": 100})


def test_a_pruned_network_is_pruned_further(tmp_path: Path) -> None:
    """The first shortcut takes channels out of the middle, so that those before and behind it stay."""
    published = NETWORKS["resnet56"]
    network = hrank.convert(stored(tmp_path / "a.pt", filled(published.shapes(published.rates))))
    before = sum(p.numel() for p in network.parameters())
    report = tailcut.prune(network, torch.zeros(1, 3, 32, 32), score(network, method="l1"), rates=0.3)
    assert sum(p.numel() for p in network.parameters()) < 0.8 * before
    assert "slice along its channels" in str(report)
    widths = {name: network.get_parameter(f"{name}.weight").shape[0] for name in ("conv1", "layer1.3.conv2")}
    assert widths == {"conv1": 16, "layer1.3.conv2": 13}
    tailcut.save(network, tmp_path / "a.tailcut")
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(tailcut.load(tmp_path / "a.tailcut")(x), network(x))


def test_other_networks(tmp_path: Path) -> None:
    published = NETWORKS["resnet56"]
    tensors = filled(published.shapes(published.originals))
    path = stored(tmp_path / "a.pt", tensors)
    with pytest.raises(ModelMismatchError, match="holds the tensors of 'resnet56', not of 'resnet50'"):
        hrank.convert(path, model="resnet50")
    stored(path, {"some.weight": torch.ones(2, 2)})
    with pytest.raises(ModelMismatchError, match=r"not laid out as the published code .* its first tensors are some"):
        hrank.convert(path)
    stored(path, {name: x for name, x in tensors.items() if name != "layer2.3.bn1.running_var"})
    with pytest.raises(ModelMismatchError, match=r"missing in the file: layer2\.3\.bn1\.running_var"):
        hrank.convert(path)
    stored(path, {name: x for name, x in tensors.items() if not name.startswith("fc.")})
    with pytest.raises(ModelMismatchError, match=r"expected a tensor 'linear\.weight'"):
        hrank.convert(path)


def test_wider_networks(tmp_path: Path) -> None:
    wide = filled(resnet([-1.0] + [0.0] * 29, blocks=9, last="fc"))
    with pytest.raises(ModelMismatchError, match=r"at most \(16, 16, 32, 64\) channels .* \(32, 16, 32, 64\)"):
        hrank.convert(stored(tmp_path / "a.pt", wide))
    published = NETWORKS["vgg16_bn_cifar"]
    wide = filled(published.shapes([-1.0] + [0.0] * 11))
    with pytest.raises(ModelMismatchError, match=r"no pruned form .* out_channels must be from 1 to 64, it is 128"):
        hrank.convert(stored(tmp_path / "a.pt", wide))


def test_layers_that_do_not_fit_together(tmp_path: Path) -> None:
    published = NETWORKS["vgg16_bn_cifar"]
    tensors = filled(published.shapes(published.originals))
    for part in ("weight", "bias"):
        tensors[f"features.conv1.{part}"] = tensors[f"features.conv1.{part}"][:40]
    for part in ("weight", "bias", "running_mean", "running_var"):
        tensors[f"features.norm1.{part}"] = tensors[f"features.norm1.{part}"][:40]
    with pytest.raises(ModelMismatchError, match="its layers do not fit together"):
        hrank.convert(stored(tmp_path / "a.pt", tensors))


def test_a_shortcut_that_only_their_code_has(tmp_path: Path) -> None:
    tensors = filled(mobilenet_v2([0.0] * 7 + [0.5]))
    with pytest.raises(ModelMismatchError, match=r"features\.17 has as many channels before as after"):
        hrank.convert(stored(tmp_path / "a.pt", tensors))


@pytest.mark.parametrize("content", [3, [], {"state_dict": {}}, {"state_dict": nn.Linear(1, 1)}])
def test_other_contents(content: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.pt"):
        hrank.convert(stored(tmp_path / "a.pt", content))


def test_blocks_that_are_wider_within_are_refused_by_name() -> None:
    tensors = {f"layer{stage}.0.conv2.weight": torch.zeros(8 * 2**stage, 1) for stage in (1, 2, 3)}
    tensors |= {"conv1.weight": torch.zeros(16, 1), "layer1.3.conv1.weight": torch.zeros(16, 16, 3, 3)}
    tensors |= {"fc.weight": torch.zeros(10, 64)}
    assert "channels" not in hrank._resnet_arguments(tensors)
    tensors["layer1.0.conv2.weight"] = torch.zeros(8, 1)
    with pytest.raises(ModelMismatchError, match=r"layer1\.3\.conv1\.weight has 16 channels within a stage of 8"):
        hrank._resnet_arguments(tensors)
