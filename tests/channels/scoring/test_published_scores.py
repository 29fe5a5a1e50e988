from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tailcut
from tailcut.channels.scoring.published_scores import layer_names, read_score_folder
from tailcut.errors import ArgumentError, DataError
from tailcut.structure import create_model


def folder_of(path: Path, prefix: str, widths: dict[str, int]) -> Path:
    path.mkdir()
    for number, (name, width) in enumerate(widths.items()):
        np.save(path / f"{prefix}_conv{name}.npy", np.arange(width, dtype=np.float32) + number)
    (path / "README").write_text("text")
    return path


VGG = dict(zip(map(str, range(1, 13)), (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512), strict=True))


@pytest.mark.parametrize(("prefix", "method"), [("rank", "hrank"), ("ci", "chip"), ("score", "cfdp")])
def test_vgg(prefix: str, method: str, tmp_path: Path) -> None:
    """Twelve files: the last convolution is not pruned."""
    model = create_model("vgg16_bn_cifar")
    scores = read_score_folder(folder_of(tmp_path / "a", prefix, VGG), model)
    assert scores.method == method
    assert list(scores) == [f"features.{place}" for place in (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37)]
    assert scores["features.7"].tolist() == list(range(2, 130))
    assert list(scores.skipped) == ["features.40"]
    tailcut.prune(model, torch.zeros(1, 3, 32, 32), scores, rates="paper")
    assert model.get_parameter("features.0.weight").shape[0] == 50


@pytest.mark.parametrize(
    ("model", "places"),
    [
        (
            "resnet56",
            {1: "conv1", 2: "layer1.0.conv1", 3: "layer1.0.conv2", 20: "layer2.0.conv1", 55: "layer3.8.conv2"},
        ),
        ("resnet110", {1: "conv1", 109: "layer3.17.conv2"}),
        (
            "resnet50",
            {1: "conv1", 2: "layer1.0.conv1", 3: "layer1.0.conv2", 4: "layer1.0.downsample.0", 5: "layer1.0.conv3"}
            | {6: "layer1.1.conv1", 8: "layer1.1.conv3", 12: "layer2.0.conv1", 53: "layer4.2.conv3"},
        ),
        (
            "densenet40",
            {1: "conv1", 2: "dense1.0.conv1", 13: "dense1.11.conv1", 14: "trans1.conv1", 15: "dense2.0.conv1"}
            | {27: "trans2.conv1", 39: "dense3.11.conv1"},
        ),
        ("mobilenetv1", {1: "conv1", 2: "layers.0.conv1", 3: "layers.0.conv2", 27: "layers.12.conv2"}),
        (
            "mobilenetv2",
            {1: "features.0.0", 2: "features.1.conv.0.0", 3: "features.1.conv.1", 4: "features.2.conv.0.0"}
            | {5: "features.2.conv.1.0", 6: "features.2.conv.2", 52: "features.18.0"},
        ),
    ],
)
def test_numbers_of_layers(model: str, places: dict[int, str]) -> None:
    """The order in which the published code goes through each network."""
    with torch.device("meta"):
        found = layer_names(create_model(model))
    assert {number: found[number, None] for number in places} == {number: (name,) for number, name in places.items()}
    assert len(found) == max(places)


def test_googlenet_has_a_file_for_each_branch(tmp_path: Path) -> None:
    model = create_model("googlenet_cifar")
    widths = {"1": 192, "2_n1x1": 64, "2_n3x3": 128, "2_n5x5": 32, "2_pool_planes": 32, "10_n3x3": 384}
    scores = read_score_folder(folder_of(tmp_path / "a", "rank", widths), model)
    assert list(scores) == ["pre_layers.0", "a3.b1.0", "a3.b2.3", "a3.b3.3", "a3.b3.6", "a3.b4.1", "b5.b2.3"]
    assert scores["a3.b3.3"].equal(scores["a3.b3.6"])


def test_other_folders(tmp_path: Path) -> None:
    model = create_model("vgg16_bn_cifar")
    with pytest.raises(DataError, match=r"holds no file rank_conv1\.npy"):
        read_score_folder(folder_of(tmp_path / "a", "rank", {}), model)
    folder = folder_of(tmp_path / "b", "rank", {"1": 60})
    with pytest.raises(DataError, match=r"rank_conv1\.npy holds 60 scores, features\.0 has 64 channels"):
        read_score_folder(folder, model)
    folder = folder_of(tmp_path / "c", "rank", {"14": 60})
    with pytest.raises(ArgumentError, match="is for a layer that 'vgg16_bn_cifar' does not have, which has 13"):
        read_score_folder(folder, model)
    folder = folder_of(tmp_path / "d", "rank", VGG)
    np.save(folder / "ci_conv1.npy", np.ones(64))
    with pytest.raises(DataError, match=r"scores of several methods \(ci, rank\)"):
        read_score_folder(folder, model)
    with pytest.raises(ArgumentError, match=r"are read for vgg16_bn_cifar, .*; this network is 'Linear'"):
        read_score_folder(folder, nn.Linear(1, 1))


@pytest.mark.parametrize(
    "content", [np.ones((64, 1)), np.array(["a"] * 64), np.full(64, np.nan), np.array([None] * 64), np.ones(0)]
)
def test_other_arrays(content: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "rank_conv1.npy", content, allow_pickle=True)
    with pytest.raises(DataError, match=r"rank_conv1\.npy") as caught:
        read_score_folder(tmp_path / "a", create_model("vgg16_bn_cifar"))
    assert "allow_pickle" not in str(caught.value)


def test_damaged_and_large_files(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", "rank", {"1": 64})
    path = folder / "rank_conv1.npy"
    content = path.read_bytes()
    for cut in (0, 5, 60, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(DataError, match=r"no \.npy file of numbers, or it is damaged"):
            read_score_folder(folder, create_model("vgg16_bn_cifar"))
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (%s,), }"
    for text in (header % "1099511627776", header % "1e3", header.replace("}", ""), header % (1 << 62)):
        path.write_bytes(b"\x93NUMPY\x01\x00v\x00" + text.encode().ljust(117) + b"\n" + bytes(64))
        with pytest.raises(DataError, match=r"no \.npy file of numbers, or it is damaged"):
            read_score_folder(folder, create_model("vgg16_bn_cifar"))
    path.write_bytes(bytes(1 << 21))
    with pytest.raises(DataError, match="has 2,097,152 bytes, at most"):
        read_score_folder(folder, create_model("vgg16_bn_cifar"))


def test_two_files_of_one_layer_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", "rank", VGG)
    np.save(folder / "rank_conv05.npy", np.arange(256, dtype=np.float32))
    with pytest.raises(DataError, match=r"two files for one layer, rank_conv05\.npy and rank_conv5\.npy"):
        read_score_folder(folder, create_model("vgg16_bn_cifar"))
