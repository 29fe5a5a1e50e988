"""What travels: a network as a `.tailcut` file, or as Flower sends any network, its dense tensors."""

import tempfile
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import nn

import tailcut

STEP = 0.1
"""To which coefficients are rounded, in parts of the root mean square of their layer."""


def make_network(num_kept: int) -> nn.Module:
    """Return a fresh LeNet-5, with `num_kept` coefficients in each layer; with 0 it is dense."""
    model = tailcut.create_model("lenet5", bias=False, conv_relu=True)
    if num_kept:
        tailcut.regularize(model, num_kept=num_kept)
    return model


def to_records(model: nn.Module, *, packed: bool) -> RecordDict:
    """Return the content of a message that carries `model`.

    A packed network is bytes of Flower's `ConfigRecord`, a dense one Flower's `ArrayRecord`.
    """
    if not packed:
        return RecordDict({"arrays": ArrayRecord(model.state_dict())})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tailcut")
        tailcut.save(model, path, step=STEP)
        return RecordDict({"network": ConfigRecord({"file": path.read_bytes()})})


def from_records(content: RecordDict) -> nn.Module:
    """Return the network that a message carries. A packed one says itself what it is.

    Raises:
        tailcut.FormatError: the file is damaged or hostile. Nothing in it is ever executed.
    """
    if "arrays" in content:
        model = make_network(0)
        model.load_state_dict(content["arrays"].to_torch_state_dict())
        return model
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tailcut")
        path.write_bytes(content["network"]["file"])
        return tailcut.load(path)


def num_bytes(content: RecordDict) -> int:
    """Return the bytes of the network in a message."""
    if "arrays" in content:
        return sum(len(array.data) for array in content["arrays"].values())
    return len(content["network"]["file"])
