"""Networks come from .tailcut files and from checkpoints."""

import os
from pathlib import Path

import pytest
import torch

from tailcut.data import open_dataset
from tailcut.errors import ArgumentError, FormatError
from tailcut.format import save
from tailcut.format.open_network import open_network
from tailcut.format.zoo import zoo_names
from tailcut.structure import create_model

WEIGHTS = "weights/resnet56-cifar10.th"


def checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    model = create_model("resnet20", width=4)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "best": 91.7}, folder / "resnet20.th")
    return folder / "resnet20.th"


def test_a_checkpoint_of_a_registered_model(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    network = open_network(path, model="resnet20", arguments={"width": 4, "normalize": True})
    assert not network.training
    torch.manual_seed(0)
    expected = create_model("resnet20", width=4, normalize=True).eval()
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(network(x), expected(x))


def test_a_tailcut_file(tmp_path: Path) -> None:
    model = create_model("lenet300").eval()
    save(model, tmp_path / "a.tailcut")
    x = torch.rand(1, 1, 28, 28)
    assert torch.equal(open_network(tmp_path / "a.tailcut")(x), model(x))
    assert open_network(f"zoo:{zoo_names()[0]}").training is False


def test_wrong_words(tmp_path: Path) -> None:
    save(create_model("lenet300"), tmp_path / "a.tailcut")
    with pytest.raises(ArgumentError, match="names its model itself: leave out --model"):
        open_network(tmp_path / "a.tailcut", model="lenet300")
    with pytest.raises(ArgumentError, match="names its model itself"):
        open_network(tmp_path / "a.tailcut", arguments={"bias": False})
    path = checkpoint(tmp_path)
    with pytest.raises(ArgumentError, match="name the registered model of its weights with --model"):
        open_network(path)
    with pytest.raises(ArgumentError, match="unknown model"):
        open_network(path, model="resnet21")
    with pytest.raises(ArgumentError, match=r"do not fit model 'resnet20' with its defaults: .*arguments are .*width"):
        open_network(path, model="resnet20")
    with pytest.raises(FileNotFoundError):
        open_network(tmp_path / "nothing.th", model="resnet20")


def test_a_damaged_tailcut_file_is_still_one(tmp_path: Path) -> None:
    save(create_model("lenet300"), tmp_path / "a.tailcut")
    content = (tmp_path / "a.tailcut").read_bytes()
    (tmp_path / "a.tailcut").write_bytes(content[:100])
    with pytest.raises(FormatError):
        open_network(tmp_path / "a.tailcut")


def test_a_real_resnet56(cifar10_root: Path) -> None:
    roots = [Path(root) for root in os.environ.get("TAILCUT_DATA", "").split(os.pathsep) if root]
    found = [root / WEIGHTS for root in roots if (root / WEIGHTS).is_file()]
    if not found:
        reason = f"needs real data: set TAILCUT_DATA to a folder that holds {WEIGHTS}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    network = open_network(found[0], model="resnet56", arguments={"normalize": True})
    x, target = open_dataset("cifar10", "test", roots=[cifar10_root]).batch(range(200))
    with torch.no_grad():
        accuracy = (network(x).argmax(dim=1) == target).double().mean()
    assert accuracy > 0.9
