"""Inception's features: torch-fidelity's own metric is the oracle; the weights are drawn, since none come along."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import torchvision_operators
from torch import Tensor

from tailcut.data import InMemoryDataset, open_dataset
from tailcut.errors import ArgumentError, DataError, MissingExtraError
from tailcut.evaluation.generation import Sampler, evaluate_generator, evaluate_generator_file, latent_codes
from tailcut.evaluation.metrics.inception import InceptionFeatures
from tailcut.format import save
from tailcut.structure import create_model

assert torchvision_operators  # before torch-fidelity, which imports torchvision

FILE = "weights-inception-2015-12-05-6726825d.pth"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Torch's cache with drawn weights of Inception."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Drawn(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *_: object, **__: object) -> None:
            """Keep what was drawn."""

    folder = tmp_path_factory.mktemp("torch")
    (folder / "hub" / "checkpoints").mkdir(parents=True)
    file = folder / "hub" / "checkpoints" / FILE
    torch.save({}, file)
    torch.manual_seed(0)
    torch.save(Drawn("drawn", ["2048"], feature_extractor_weights_path=str(file)).state_dict(), file)
    return folder


@pytest.fixture
def cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(home))
    return home / "hub" / "checkpoints" / FILE


def as_bytes(images: Tensor) -> Tensor:
    return (images * 255).round().byte().repeat(1, 3, 1, 1)


def test_distance_is_that_of_torch_fidelity(cache: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    torch.manual_seed(1)
    model = create_model("vae", hidden=16)
    images, targets = open_dataset("digits", "test").batch(range(12))
    some = InMemoryDataset("some", "test", (images * 255).byte(), targets, "0123456789")
    figures = evaluate_generator(model, some, num_samples=9, features=InceptionFeatures(), batch_size=5)
    assert figures.keys() == {"fid_inception", "elbo"}
    sampler = Sampler(model)
    oracle = FeatureExtractorInceptionV3("oracle", ["2048"], feature_extractor_weights_path=str(cache))
    made, real = (
        fid_features_to_statistics(torch.cat([oracle(as_bytes(part))[0] for part in both.split(5)]))
        for both in (sampler(latent_codes(sampler, 9, 0)), some.batch(range(len(some)))[0])
    )
    expected = fid_statistics_to_metric(made, real, verbose=False)["frechet_inception_distance"]
    np.testing.assert_allclose(figures["fid_inception"], expected, rtol=1e-3)


def test_colors_and_grey(cache: Path) -> None:
    network = InceptionFeatures()
    grey = torch.rand(2, 1, 20, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(grey), network(grey.repeat(1, 3, 1, 1)))
    assert network(grey).shape == (2, network.num_features)
    with pytest.raises(ArgumentError, match=r"1 or 3, height, width\), got \(2, 2, 20, 24\)"):
        network(grey.repeat(1, 2, 1, 1))


def test_weights_that_are_not_there_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DataError, match="allow the download, or put https://"):
        InceptionFeatures()


def test_a_failed_download_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another content stands in for the server's, so its hash is wrong."""
    (tmp_path / FILE).write_bytes(b"not the weights")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    url = "torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3"
    monkeypatch.setattr(url, (tmp_path / FILE).as_uri())
    with pytest.raises(DataError, match=r"cannot be fetched from file:.*hash"):
        InceptionFeatures(download=True)
    assert [path.name for path in (tmp_path / "torch").rglob("*")] == ["hub", "checkpoints"]


def test_damaged_weights_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "harm"), "w"))  # type: ignore[return-value]

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / FILE
    file.parent.mkdir(parents=True)
    torch.save({"fc.weight": Harm()}, file)
    with pytest.raises(DataError, match="does not hold the weights of Inception v3"):
        InceptionFeatures()
    assert not (tmp_path / "harm").exists()
    torch.save({"fc.weight": torch.ones(2)}, file)
    with pytest.raises(DataError, match="does not hold the weights of Inception v3"):
        InceptionFeatures()


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[inception\]"):
        InceptionFeatures()


def test_a_torchvision_that_does_not_fit_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "torch_fidelity.feature_extractor_inceptionv3":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=r"not for this build of torch: .*nms does not exist"):
        InceptionFeatures()


def test_other_names_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "vae.tailcut"
    save(create_model("vae", hidden=16), file)
    with pytest.raises(ArgumentError, match="one of lenet5, inception, got 'vgg'"):
        evaluate_generator_file(file, "digits", features="vgg")
