"""Grad-CAM against a computation by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.format.hostile.zeros import narrowed_alone, zero_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tailcut.errors import ArgumentError, StructureError
from tailcut.format import save
from tailcut.inputs import replace_stem, use_ycbcr
from tailcut.plotting import write_figure
from tailcut.structure import create_model, set_class_names
from tailcut.tasks.prediction import explain
from tailcut.tasks.prediction.explain import explain_files, grad_cam
from tailcut.weights import regularize


class Pooled(nn.Module):
    """A convolution, ReLU, the mean over each map, a linear layer: the gradient is the layer's row over the pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 5, 3)
        self.conv = nn.Conv2d(5, 6, 3)
        self.fc = nn.Linear(6, 4)

    def maps(self, x: Tensor) -> Tensor:
        """Those of the last convolution."""
        return torch.relu(self.conv(torch.relu(self.first(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.fc(self.maps(x).mean((2, 3)))
        return logits


X = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("class_number", range(4))
def test_heat_map_by_hand(class_number: int) -> None:
    model = Pooled()
    with torch.no_grad():
        maps, logits = model.maps(X)[0], model(X)[0]
    weights = model.fc.weight.detach()[class_number] / maps[0].numel()
    heat = torch.zeros(maps.shape[1:])
    for weight, one in zip(weights, maps, strict=True):
        heat += weight * one
    heat = interpolate(heat.clamp(min=0)[None, None], size=(12, 16), mode="bilinear")[0, 0]
    found = grad_cam(model, X, class_number=class_number)
    assert (found.layer, found.class_number) == ("conv", class_number)
    assert found.probability == pytest.approx(float(logits.softmax(dim=0)[class_number]), rel=1e-6)
    expected = heat / heat.max() if heat.max() > 0 else heat
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)


def test_another_layer_by_finite_gradients() -> None:
    model = Pooled().double()
    x = X.double()
    first = torch.relu(model.first(x)).detach()
    weights = []
    for channel in range(5):
        step = torch.zeros_like(first)
        step[:, channel] = 1e-6
        after, before = (model.fc(torch.relu(model.conv(first + sign * step)).mean((2, 3)))[0, 2] for sign in (1, -1))
        weights.append(float((after - before).detach()) / 2e-6 / first[0, 0].numel())
    heat = (torch.tensor(weights, dtype=torch.float64)[:, None, None] * first[0]).sum(0).clamp(min=0)
    heat = interpolate(heat[None, None].float(), size=(12, 16), mode="bilinear")[0, 0]
    found = grad_cam(model, x, layer="first", class_number=2)
    torch.testing.assert_close(found.values, heat / heat.max(), rtol=1e-4, atol=1e-5)


def test_the_likeliest_class_is_explained() -> None:
    model = Pooled()
    assert grad_cam(model, X).class_number == int(model(X).argmax())


def test_the_model_is_not_changed() -> None:
    model = Pooled().train().requires_grad_(False)
    x = X.clone()
    found = grad_cam(model, x)
    assert found.values.shape == (12, 16)
    assert not found.values.requires_grad
    assert model.training
    assert len(model.conv._forward_hooks) == 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not x.requires_grad
    assert torch.equal(x, X)


def test_works_where_gradients_are_off() -> None:
    with torch.no_grad():
        assert float(grad_cam(Pooled(), X).values.max()) == 1


def test_activations_in_place() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 140, 3)]
    model = nn.Sequential(*layers)
    expected = grad_cam(model, X, class_number=1)
    model[2] = nn.ReLU(inplace=True)
    assert torch.equal(grad_cam(model, X, class_number=1).values, expected.values)


def test_a_class_that_nothing_speaks_for_has_no_heat() -> None:
    model = Pooled()
    with torch.no_grad():
        model.fc.weight[3] = -1.0
    assert not grad_cam(model, X, class_number=3).values.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "fc"}, "there is no 2-D convolution 'fc'; there are first, conv"),
        ({"class_number": 4}, "the network has classes 0 to 3, got 4"),
        ({"class_number": -1}, "got -1"),
    ],
)
def test_bad_requests(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        grad_cam(Pooled(), X, **arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_outputs_that_say_nothing_are_refused(number: float) -> None:
    model = Pooled()
    with torch.no_grad():
        model.fc.bias[0] = number
    with pytest.raises(ArgumentError, match="the network's outputs are no numbers"):
        grad_cam(model, X)


def test_networks_that_cannot_be_explained() -> None:
    model = Pooled()
    model.fc = nn.Linear(model.fc.in_features, 1)
    with pytest.raises(ArgumentError, match="one of two classes or more"):
        grad_cam(model, X)
    with pytest.raises(StructureError, match="Linear has no 2-D convolution"):
        grad_cam(nn.Linear(16, 3), X)
    with pytest.raises(ArgumentError, match="needs a classifier"):
        grad_cam(nn.Sequential(nn.Conv2d(3, 2, 3)), X)
    with pytest.raises(ArgumentError, match=r"one image \(1, channels, height, width\), got \(2, 3, 12, 16\)"):
        grad_cam(Pooled(), X.expand(2, -1, -1, -1))

    class Unrelated(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] == 16:
                self.maps(x)
            logits: Tensor = self.fc(x.mean((2, 3)).repeat(1, 2))
            return logits

    with pytest.raises(ArgumentError, match="the outputs do not depend on the maps of layer conv"):
        grad_cam(Unrelated(), X)
    with pytest.raises(ArgumentError, match="no map of conv was seen"):
        grad_cam(Unrelated(), X[..., :12], layer="conv")


@pytest.mark.parametrize("names", [None, [f"digit {number}" for number in range(10)]])
def test_two_files_side_by_side(names: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        torch.manual_seed(ord(name))
        model = create_model("lenet5", conv_relu=True)
        if name == "b":
            regularize(model, num_kept=100)
        set_class_names(model, names)
        save(model, tmp_path / f"{name}.tailcut")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)).save(tmp_path / "x.png")
    figures: list[Any] = []

    def write(figure: Any, path: Path) -> None:
        figures.append(figure)
        write_figure(figure, path)

    monkeypatch.setattr(explain, "write_figure", write)
    files = [tmp_path / "a.tailcut", tmp_path / "b.tailcut"]
    report = explain_files(files, tmp_path / "x.png", tmp_path / "cam.png", device="cpu")
    with Image.open(tmp_path / "cam.png") as image:
        assert image.format == "PNG"
    first, second = report.explanations
    assert report.class_number == first.best_class_number
    assert (first.layer, second.layer, first.source) == ("conv2", "conv2", str(files[0]))
    assert 0 < second.probability < 1
    assert len(figures[0].axes) == 3
    assert [len(axis.get_images()) for axis in figures[0].axes] == [1, 2, 2]
    heat = figures[0].axes[1].get_images()[1].get_array()
    assert heat.shape == (28, 28)
    assert first.focus is not None
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert first.focus == ((row + 0.5) / 28, (column + 0.5) / 28)
    assert str(files[1]) in str(report)
    if names is None:
        assert (report.class_name, first.best_class_name) == (None, None)
        shown = f"class {report.class_number}"
    else:
        assert report.class_name == first.best_class_name == names[report.class_number]
        assert second.best_class_name == names[second.best_class_number]
        shown = f"class {report.class_number} digit {report.class_number}"
    assert figures[0].axes[0].get_title() == shown
    assert f"probability of {shown}\n" in str(report)
    asked = explain_files(files[1:], tmp_path / "x.png", tmp_path / "cam.png", class_number=7, device="cpu")
    assert asked.class_number == 7


@pytest.mark.parametrize("reads", ["frequencies", "ycbcr"])
def test_the_image_is_drawn_whatever_the_network_reads(
    reads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    model = create_model("resnet18", width=8, num_classes=3)
    replace_stem(model, 24) if reads == "frequencies" else use_ycbcr(model)
    save(model, tmp_path / "a.tailcut")
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    figures: list[Any] = []
    monkeypatch.setattr(explain, "write_figure", lambda figure, path: figures.append(figure))
    explain_files([tmp_path / "a.tailcut"], tmp_path / "x.png", tmp_path / "cam.png", device="cpu")
    for axis in figures[0].axes:
        shown, *heat = axis.get_images()
        drawn = shown.get_array()
        assert drawn.shape[2] == 3
        assert 0 <= drawn.min() <= drawn.max() <= 1
        assert all(image.get_extent() == shown.get_extent() for image in heat)


def test_files_that_take_no_images(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="at least one file"):
        explain_files([], tmp_path / "x.png", tmp_path / "cam.png")


def test_a_network_that_cannot_run_is_reported(tmp_path: Path) -> None:
    """Two edits of a file may not fit each other, and still make a network of tensors that the file has."""
    Image.fromarray(np.zeros((28, 28, 3), np.uint8)).save(tmp_path / "x.png")
    (tmp_path / "a.tailcut").write_bytes(zero_file("resnet20", edits=[narrowed_alone("layer1.0.conv1")]))
    with pytest.raises(ArgumentError, match=r"cannot take images of shape \(1, 3, 32, 32\): .*channels"):
        explain_files([tmp_path / "a.tailcut"], tmp_path / "x.png", tmp_path / "cam.png", device="cpu")


def test_a_convolution_in_the_place_of_a_linear_layer_has_no_places() -> None:
    """Its map is one number for each class, spread over the image: whatever it shows is rounding."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, (10, 14)), nn.Flatten())
    found = grad_cam(head, X)
    assert found.layer == "0"
    assert torch.equal(found.values, grad_cam(head, X, layer="0").values)
    with pytest.raises(ArgumentError, match="the maps of layer 2 are of one place"):
        grad_cam(head, X, layer="2")
    with pytest.raises(StructureError, match="more than one place"):
        grad_cam(nn.Sequential(nn.Conv2d(3, 4, (12, 16)), nn.Flatten()), X)


def test_maps_that_are_concatenated_have_their_own_gradients() -> None:
    """By hand: the last convolution's maps are the last channels of what the final batch norm and ReLU give."""
    torch.manual_seed(0)
    model, image = create_model("densenet40", growth=4).eval(), torch.rand(1, 3, 32, 32)
    kept: list[torch.Tensor] = []
    with model.get_submodule("bn").register_forward_hook(lambda module, given, output: kept.append(output.relu())):
        model(image)
    maps = kept[0].detach().requires_grad_()
    outputs = model.get_submodule("fc")(maps.mean(dim=(2, 3)))
    (gradient,) = torch.autograd.grad(outputs[0, int(outputs.argmax())], maps)
    heat = (gradient[:, -4:].mean(dim=(2, 3), keepdim=True) * maps[:, -4:]).sum(dim=1, keepdim=True).relu()
    heat = interpolate(heat, size=(32, 32), mode="bilinear", align_corners=False)[0, 0].detach()
    assert float(heat.max()) > 0
    found = grad_cam(model, image)
    assert found.layer == "dense3.11.conv1"  # not that of the pooling before, whose maps are known later
    torch.testing.assert_close(found.values, heat / heat.max(), atol=1e-5, rtol=1e-4)
    for layer in ("dense1.3.conv1", "trans1.conv1", "conv1"):
        assert grad_cam(model, image, layer=layer).layer == layer
