import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tailcut.data import open_dataset
from tailcut.errors import ArgumentError, DataNotFoundError, MissingExtraError, TailcutError
from tailcut.format import save
from tailcut.inputs.selection.gate import FrequencyGate
from tailcut.inputs.selection.selection import Selection
from tailcut.inputs.stem.edit import transform_of
from tailcut.inputs.stem.replace import replace_stem
from tailcut.runs import Run
from tailcut.structure import create_model
from tailcut.tasks.select_channels import select_channels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with an Imagenette of five images."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(("n01440764", "n01440764", "n02102040", "n02102040", "n02979186")):
        folder = tmp_path / "data" / "imagenette224" / "val" / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "data"


@pytest.fixture
def gated() -> nn.Module:
    """A network whose gate has learned something else for every channel."""
    torch.manual_seed(0)
    model = replace_stem(create_model("resnet20", width=2), 24, gate=True).eval()
    gate, transform = model.get_submodule("normalize"), transform_of(model)
    assert isinstance(gate, FrequencyGate)
    assert gate.logits.bias is not None
    assert transform is not None
    transform.std.fill_(100)
    nn.init.normal_(gate.logits.bias)
    nn.init.normal_(gate.logits.weight)
    return model


def expected(model: nn.Module, root: Path) -> np.ndarray:
    """Mean probability of each of the 24 channels, image by image."""
    dataset, transform = open_dataset("imagenette@64", roots=root), transform_of(model)
    gate = model.get_submodule("normalize")
    assert isinstance(gate, FrequencyGate)
    assert transform is not None
    seen = []
    for place in range(len(dataset)):
        gate(transform(dataset[place][0][None]))
        seen.append(gate.probabilities.detach().numpy()[0])
    means: np.ndarray = np.mean(seen, axis=0)
    return means


def test_the_channels_of_a_file(gated: nn.Module, root: Path, tmp_path: Path) -> None:
    save(gated, tmp_path / "a.tailcut")
    out = tmp_path / "selection.json"
    report = select_channels(
        tmp_path / "a.tailcut", out, num_channels=5, data="imagenette@64", roots=root, batch_size=2, device="cpu"
    )
    means = expected(gated, root)
    channels = Selection.of(24).indices
    assert Selection.load(out).indices == tuple(sorted(channels[place] for place in np.argsort(-means)[:5]))
    assert (report.num_images, report.num_channels, report.split, report.heat_maps) == (5, 5, "val", None)
    assert list(report.probability) == list(channels)
    np.testing.assert_allclose(list(report.probability.values()), means, atol=1e-5)
    assert "5 channels" in str(report)
    assert report.to_dict()["selection"] == {
        name: list(part) for name, part in Selection.load(out).components().items()
    }
    report = select_channels(tmp_path / "a.tailcut", out, num_channels=(2, 1, 0), data="imagenette@64", roots=root)
    assert [len(part) for part in report.selection.values()] == [2, 1, 0]


def test_a_run_tells_its_data(gated: nn.Module, root: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    with pytest.raises(ArgumentError, match=r"holds no model\.tailcut: finish the run"):
        select_channels(run.path, tmp_path / "a.json", roots=root)
    save(gated, run.model)
    with pytest.raises(ArgumentError, match="is no run folder"):
        select_channels(run.path, tmp_path / "a.json", roots=root)
    run.recipe.write_text(
        '[model]\nname = "resnet20"\n[data]\nname = "imagenette@64"\n[training]\nepochs = 1\n[optimizer]\nlr = 0.1\n'
    )
    report = select_channels(run.path, tmp_path / "a.json", roots=root, heat_maps=tmp_path / "heat.png")
    assert (report.data, report.num_images) == ("imagenette@64", 5)
    with Image.open(tmp_path / "heat.png") as image:
        assert image.width > 600
    assert report.num_channels == sum(value > 0.5 for value in report.probability.values())


def test_what_cannot_be_selected_from(
    gated: nn.Module, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(create_model("resnet20", width=2), tmp_path / "plain.tailcut")
    save(replace_stem(create_model("resnet20", width=2), 24), tmp_path / "open.tailcut")
    save(gated, tmp_path / "gate.tailcut")
    out = tmp_path / "a.json"
    for name in ("plain", "open"):
        with pytest.raises(ArgumentError, match="has no trained gate"):
            select_channels(tmp_path / f"{name}.tailcut", out, data="imagenette@64", roots=root)
    with pytest.raises(ArgumentError, match="give --data"):
        select_channels(tmp_path / "gate.tailcut", out, roots=root)
    with pytest.raises(ArgumentError, match="batch_size must be at least 1"):
        select_channels(tmp_path / "gate.tailcut", out, data="imagenette@64", roots=root, batch_size=0)
    with pytest.raises(ArgumentError, match="expected 1 to 24 channels"):
        select_channels(tmp_path / "gate.tailcut", out, data="imagenette@64", roots=root, num_channels=25)
    monkeypatch.delenv("TAILCUT_DATA", raising=False)
    with pytest.raises(DataNotFoundError):
        select_channels(tmp_path / "gate.tailcut", out, data="imagenette@64", split="train", roots=tmp_path / "none")
    with pytest.raises((TailcutError, OSError)):
        select_channels(tmp_path / "nothing.tailcut", out, data="imagenette@64", roots=root)
    assert not out.exists()


def test_what_cannot_be_written_is_told_before_the_pass(
    gated: nn.Module, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(gated, tmp_path / "gate.tailcut")
    out, settings = tmp_path / "a.json", {"data": "imagenette@64", "roots": root, "device": "cpu"}

    def measured(*args: object, **kwargs: object) -> None:
        raise AssertionError("the gate ran")

    with monkeypatch.context() as patch:
        patch.setattr(FrequencyGate, "measure", measured)
        with pytest.raises(ArgumentError, match=r"cannot write .*nodir/h\.png: the folder .*nodir does not exist"):
            select_channels(tmp_path / "gate.tailcut", out, heat_maps=tmp_path / "nodir/h.png", **settings)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match=r"cannot write .*: it is a folder"):
            select_channels(tmp_path / "gate.tailcut", tmp_path, **settings)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="expected 1 to 24 channels"):
            select_channels(tmp_path / "gate.tailcut", out, num_channels=25, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(FrequencyGate, "measure", measured)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError):
        select_channels(
            tmp_path / "gate.tailcut",
            out,
            num_channels=2,
            heat_maps=tmp_path / "h.png",
            **settings,  # type: ignore[arg-type]
        )
    assert not out.exists()
