import importlib.util
import json
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import onnxruntime
import pytest
import tests.torchvision_operators  # noqa: F401
import torch
from PIL import Image
from tests.execution.networks import MobileNetV2, ViT, resnet18
from tests.small_coco import TINY
from torch import Tensor, nn
from torch.nn import functional

from tailcut.errors import ArgumentError, MissingExtraError, StructureError
from tailcut.execution import fuse
from tailcut.execution.onnx.export import OnnxExportReport, export_onnx
from tailcut.format.conversion.frereg import convert
from tailcut.structure import create_model, set_class_names
from tailcut.weights import regularize, to_dense


class Words(nn.Module):
    """An embedding tied to the last layer, one-dimensional convolutions, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(300, 32)
        self.conv = nn.Conv1d(32, 32, 3, padding=1)
        self.up = nn.ConvTranspose1d(32, 32, 4, 2, 1)
        self.last = nn.Linear(32, 300, bias=False)
        self.last.weight = self.embedding.weight

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embedding(words).transpose(1, 2)
        x = self.up(torch.relu(self.conv(x))).transpose(1, 2)
        return self.last(x), x


def errors(path: Path, model: nn.Module, *inputs: Tensor) -> float:
    """The largest difference of onnxruntime from the dense network in float64, relative to the output's range."""
    session = onnxruntime.InferenceSession(path)
    named = {entry.name: value.numpy() for entry, value in zip(session.get_inputs(), inputs, strict=True)}
    found = session.run(None, named)
    exact = to_dense(model).eval().double()
    with torch.no_grad():
        outputs = exact(*(value.double() if value.is_floating_point() else value for value in inputs))
    expected = outputs if isinstance(outputs, tuple) else (outputs,)
    assert [value.shape for value in found] == [tuple(value.shape) for value in expected]
    return max(
        float(np.abs(one - two.numpy()).max() / two.abs().max()) for one, two in zip(found, expected, strict=True)
    )


def stored_numbers(path: Path) -> int:
    return sum(int(np.prod(entry.dims)) for entry in onnx.load(path).graph.initializer)


def small_unet(**arguments: Any) -> nn.Module:
    return create_model("unet", widths=(16, 32), **arguments)


BOTH: dict[str, int | str] = {"height": 2, "width": 3}
CASES: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]], dict[str, int | str], set[str]]] = {
    "unet": (
        small_unet,
        [(2, 3, 21, 19), (1, 3, 4, 5), (3, 3, 33, 40)],
        BOTH,
        {"factored", "dense"},
    ),
    "unet of batch statistics": (
        lambda: small_unet(bias=False, affine=False, running_stats=False),
        [(1, 3, 32, 32), (2, 3, 41, 35), (1, 3, 9, 70)],
        BOTH,
        {"factored", "dense"},
    ),
    "resnet": (
        lambda: resnet18(16),
        [(2, 3, 32, 32), (1, 3, 40, 33)],
        BOTH,
        {"factored", "rebuilt"},
    ),
    "mobilenet": (
        MobileNetV2,
        [(2, 3, 24, 24), (1, 3, 31, 40)],
        BOTH,
        {"factored", "rebuilt", "dense"},
    ),
    "vit of torch's layers": (ViT, [(2, 3, 16, 16), (1, 3, 16, 16)], {}, {"factored", "rebuilt"}),
    "lenet5": (lambda: create_model("lenet5"), [(1, 1, 28, 28), (5, 1, 28, 28)], {}, {"factored", "rebuilt"}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_file_is_small_and_gives_what_the_dense_network_gives(name: str, tmp_path: Path) -> None:
    make, shapes, open_sizes, ways = CASES[name]
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            nn.init.uniform_(module.running_var, 0.5, 2)
    regularize(model, num_kept=60)
    path = tmp_path / "a.onnx"
    report = export_onnx(model, path, example_input=torch.rand(shapes[0]))
    assert {tensor.way for tensor in report.tensors} <= ways
    (shape,) = report.inputs.values()
    assert shape[0] == "batch"
    assert {size: axis for axis, size in enumerate(shape[1:], start=1) if isinstance(size, str)} == open_sizes
    for shape in shapes:
        assert errors(path, model, torch.rand(shape)) < 5e-6
    # Nothing dense: what is stored besides the network's own biases and norms is coefficients and a few sizes.
    others = sum(value.numel() for key, value in model.state_dict().items() if "parametrizations" not in key)
    dense = sum(int(np.prod(tensor.shape)) for tensor in report.tensors if tensor.way == "dense")
    assert dense <= 60 * 200
    assert stored_numbers(path) < others + dense + 90 * len(report.tensors) + 300


def test_tied_weights_words_and_several_outputs(tmp_path: Path) -> None:
    model = Words()
    regularize(model, num_kept=100)
    report = export_onnx(model, tmp_path / "a.onnx", example_input=torch.randint(0, 300, (2, 7)))
    assert {tensor.name: tensor.way for tensor in report.tensors} == {
        "embedding.weight": "rebuilt",
        "conv.weight": "factored",
        "up.weight": "factored",
    }
    assert report.inputs == {"words": ("batch", "words_1")}
    assert report.outputs == {"output0": ("batch", "2*words_1", 300), "output1": ("batch", "2*words_1", 32)}
    for length in (7, 12):
        assert errors(tmp_path / "a.onnx", model, torch.randint(0, 300, (3, length))) < 5e-6


class Answer(OrderedDict[str, Any]):
    """As the outputs of transformers: a dict with attributes; what is not there is left out."""


class Dialogue(nn.Module):
    """Called as networks of transformers are: by keywords, most of them None, with a cache of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.key, self.value, self.last = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 50)

    def forward(
        self,
        words: Tensor | None = None,
        mask: Tensor | None = None,
        past: tuple[tuple[Tensor, Tensor], ...] | None = None,
        labels: Tensor | None = None,
        use_cache: bool = True,
    ) -> Answer:
        x = self.embedding(words)
        key, value = self.key(x), self.value(x)
        if past is not None:
            key, value = torch.cat([past[0][0], key], 1), torch.cat([past[0][1], value], 1)
        scores = x @ key.transpose(1, 2) / 6
        if mask is not None:
            scores = scores.masked_fill(mask[:, None] == 0, -1e4)
        x = x + scores.softmax(-1) @ value
        answer = Answer(logits=self.last(x), mask=mask, loss=None)
        if labels is not None:
            answer["loss"] = nn.functional.cross_entropy(answer["logits"].flatten(0, 1), labels.flatten())
        if use_cache:
            answer["past"] = ((key, value),)
        return answer


def test_keywords_that_may_be_none_and_outputs_by_their_keys(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Dialogue()
    regularize(model, keep_ratio=0.3)
    words, mask = torch.randint(0, 50, (2, 6)), torch.ones(2, 10)
    past = ((torch.rand(2, 4, 32), torch.rand(2, 4, 32)),)
    given = {"words": words, "mask": mask, "past": past}
    report = export_onnx(model, tmp_path / "a.onnx", example_input=given)
    assert list(report.inputs) == ["words", "mask", "past_0_0", "past_0_1"]
    assert list(report.outputs) == ["logits", "mask_out", "past_0_0_out", "past_0_1_out"]
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    exact = to_dense(model).eval()
    for num, length, before in ((2, 6, 4), (1, 3, 5)):
        words, mask = torch.randint(0, 50, (num, length)), (torch.rand(num, length + before) > 0.2).float()
        key, value = torch.rand(2, num, before, 32)
        with torch.no_grad():
            expected = exact(words=words, mask=mask, past=((key, value),))
        named = {"words": words, "mask": mask, "past_0_0": key, "past_0_1": value}
        found = session.run(None, {name: tensor.numpy() for name, tensor in named.items()})
        tensors = [expected["logits"], expected["mask"], *expected["past"][0]]
        for one, two in zip(found, tensors, strict=True):
            np.testing.assert_allclose(one, two.numpy(), atol=1e-5)


def test_arguments_by_name_and_switches(tmp_path: Path) -> None:
    model = Dialogue()
    words = torch.randint(0, 50, (1, 6))
    labels = torch.randint(0, 50, (1, 6))
    given = {"words": words, "labels": labels, "use_cache": False}
    report = export_onnx(model, tmp_path / "a.onnx", example_input=given)
    assert list(report.inputs) == ["words", "labels"]
    assert report.outputs == {"logits": ("batch", "words_1", 50), "loss": ()}
    found = onnxruntime.InferenceSession(tmp_path / "a.onnx").run(
        ["loss"], {"words": words.numpy(), "labels": labels.numpy()}
    )
    with torch.no_grad():
        assert float(found[0]) == pytest.approx(float(model(words, labels=labels)["loss"]), rel=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_networks_of_transformers(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    words = torch.randint(3, 90, (2, 7))
    given: dict[str, Any] = {"input_ids": words, "use_cache": False}
    if name == "gpt2":
        sizes = {"n_layer": 1, "n_embd": 32, "n_head": 2, "vocab_size": 100}
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
    else:
        sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "vocab_size": 100}
        # torch 2.13 alone cannot export the fused attention that is T5's default either.
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).eval()
        model.set_attn_implementation("eager")
        given["decoder_input_ids"] = words[:, :5]
    regularize(model, keep_ratio=0.3)
    export_onnx(model, tmp_path / "a.onnx", example_input=given)
    num_texts = 2 if name == "t5" else 1  # T5's position biases fix the size of the batch
    named = {key: value[:num_texts, :4].numpy() for key, value in given.items() if isinstance(value, Tensor)}
    (found,) = onnxruntime.InferenceSession(tmp_path / "a.onnx").run(["logits"], named)
    with torch.no_grad():
        expected = model(**{key: torch.from_numpy(value) for key, value in named.items()})["logits"]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("opset", [20, 23])
def test_later_opsets_and_networks_of_float64(opset: int, tmp_path: Path) -> None:
    model = create_model("lenet300", bias=False).double()
    regularize(model, num_kept=200)
    report = export_onnx(model, tmp_path / "a.onnx", opset=opset)
    assert report.opset == onnx.load(tmp_path / "a.onnx").opset_import[0].version == opset
    assert errors(tmp_path / "a.onnx", model, torch.rand(3, 1, 28, 28, dtype=torch.float64)) < 1e-12


@pytest.mark.parametrize("opset", [18, 22])
def test_bfloat16_that_onnx_has_no_operation_for_is_refused(opset: int, tmp_path: Path) -> None:
    """The file was written, and no runtime loaded it."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).bfloat16()
    example = torch.rand(2, 3, 9, 9).bfloat16()
    with pytest.raises(StructureError, match=r"has numbers of bfloat16, for which .*: export network\.float"):
        export_onnx(model, tmp_path / "model.onnx", example_input=example, opset=opset)
    assert not any(tmp_path.iterdir())
    export_onnx(model.float(), tmp_path / "model.onnx", example_input=example.float(), opset=opset)
    assert onnxruntime.InferenceSession(tmp_path / "model.onnx").get_outputs()[0].type == "tensor(float)"


def test_the_report_tells_size_shapes_and_ways(tmp_path: Path) -> None:
    model = create_model("lenet300", bias=False)
    regularize(model, num_kept=200)
    report = export_onnx(fuse(model), tmp_path / "a.onnx", dynamic=False)
    assert isinstance(report, OnnxExportReport)
    assert report.file_bytes == (tmp_path / "a.onnx").stat().st_size < 10_000
    assert report.dense_bytes == 4 * 266_200
    assert report.inputs == {"x": (1, 1, 28, 28)}
    assert "dense weights: 1,064,800" in str(report)
    assert export_onnx(model, tmp_path / "a.onnx", dynamic="batch").inputs == {"x": ("batch", 1, 28, 28)}
    with pytest.raises(ArgumentError, match="dynamic must be True, False or \"batch\", got 'height'"):
        export_onnx(model, tmp_path / "a.onnx", dynamic="height")  # type: ignore[arg-type]
    assert "factored" in str(report)
    assert report.to_dict()["tensors"][0]["name"] == "fc1.weight"


def test_the_metadata_says_the_names_of_the_classes(tmp_path: Path) -> None:
    model = create_model("lenet300")
    export_onnx(model, tmp_path / "without.onnx")
    assert not onnxruntime.InferenceSession(tmp_path / "without.onnx").get_modelmeta().custom_metadata_map
    set_class_names(model, [f"digit {number}" for number in range(10)])
    export_onnx(model, tmp_path / "with.onnx")
    metadata = onnxruntime.InferenceSession(tmp_path / "with.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == [f"digit {number}" for number in range(10)]


def test_the_model_is_not_changed_by_the_export(tmp_path: Path) -> None:
    model = create_model("lenet300").train()
    regularize(model, num_kept=200)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export_onnx(model, tmp_path / "a.onnx")
    assert model.training
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_the_published_unet_takes_less_than_30_kilobytes(carvana_root: Path, tmp_path: Path) -> None:
    published = carvana_root / "carvana" / "published"
    model = convert(published / "unet_fr.tar.xz", model="unet")
    path = tmp_path / "unet.onnx"
    report = export_onnx(model, path)
    assert report.dense_bytes == 4 * 31_024_960
    assert report.file_bytes < 30_000
    assert report.inputs == {"x": ("batch", 3, "height", "width")}
    assert {tensor.name for tensor in report.tensors if tensor.way != "factored"} == {"outc.conv.weight"}
    image = torch.from_numpy(np.array(Image.open(published / "images" / "in0001.png").convert("RGB")))
    pixels = image.permute(2, 0, 1)[None].float() / 255
    for x in (pixels[:, :, 200:331, 300:475], pixels[:, :, :33, :47]):
        assert errors(path, model, x) < 1e-4
        with torch.no_grad():
            expected = model(x)
        found = onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})[0]
        assert np.abs(found - expected.numpy()).max() < 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs example_input for a network that is not registered"),
        ({"example_input": [1, 2]}, "must be a tensor, or a tuple or dict of arguments with tensors, got int, int"),
        ({"example_input": ()}, "got nothing"),
        ({"example_input": {}}, "got dict"),
        ({"example_input": {1: torch.ones(2, 5)}}, "has the arguments' names as keys, got \\[1\\]"),
        ({"example_input": {"input": 3}}, "with tensors, got int"),
        ({"example_input": torch.ones(2, 5), "opset": 11}, "opset must be an integer from 18 to"),
        ({"example_input": torch.ones(2, 5), "opset": True}, "opset must be an integer"),
    ],
)
def test_bad_arguments_are_told_and_nothing_is_written(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(5, 5))
    with pytest.raises(ArgumentError, match=message):
        export_onnx(model, tmp_path / "a.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_where_no_file_can_lie_is_told_before_the_export(tmp_path: Path) -> None:
    stages: list[str] = []
    for path in (tmp_path / "missing" / "a.onnx", tmp_path):
        with pytest.raises(ArgumentError, match="cannot write"):
            export_onnx(create_model("lenet5"), path, tell=stages.append)
    assert stages == []


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else real(name))
    with pytest.raises(MissingExtraError, match=r"'onnxscript': pip install '\.\[onnx\]'"):
        export_onnx(create_model("lenet300"), tmp_path / "a.onnx")


def test_a_detector_is_refused_and_its_backbone_is_not(tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector: Any = create_model("faster_rcnn", **TINY).eval()
    with pytest.raises(StructureError, match=r"export its detector\.backbone, which takes example_input"):
        export_onnx(detector, tmp_path / "a.onnx")
    report = export_onnx(detector.backbone, tmp_path / "a.onnx", example_input=torch.zeros(1, 24, 32, 32))
    assert len(report.outputs) == 5


def test_a_count_of_numbers_takes_no_second_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unflattened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.convolution(x).transpose(1, 2)
            return torch.unflatten(y, 2, (2, -1)).reshape(x.shape[0], -1)

    torch.manual_seed(0)
    model = Unflattened().eval()
    regularize(model, num_kept=20)
    export = Mock(wraps=torch.onnx.export)
    monkeypatch.setattr(torch.onnx, "export", export)
    export_onnx(model, tmp_path / "a.onnx", example_input=torch.rand(2, 3, 8, 8))
    assert export.call_count == 1, "torch's exporter has no form for aten.sym_numel"
    images = torch.rand(3, 3, 6, 10)
    (found,) = onnxruntime.InferenceSession(tmp_path / "a.onnx").run(None, {"x": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, model(images).numpy(), atol=1e-5)


class AsksForSizes(nn.Module):
    """What torch.export keeps of a branch is the side that the example takes."""

    def __init__(self, ask: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.ask = ask

    def forward(self, x: Tensor) -> Tensor:
        return self.ask(self.conv(x))


ASKING: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, int], tuple[str | int, str | int]]] = {
    "wide enough": (lambda y: y.relu() if y.shape[-1] > 14 else -y, (15, 13), ("height", 13)),
    "too narrow": (lambda y: y.relu() if y.shape[-1] > 14 else -y, (15, 28), ("height", 28)),
    "odd": (lambda y: functional.pad(y, (0, 1)) if y.shape[-1] % 2 else y, (15, 28), ("height", 28)),
    "windows": (lambda y: functional.avg_pool2d(functional.max_pool2d(y, 2), y.shape[-1] // 2), (8, 8), ("height", 8)),
    "no branch": (lambda y: functional.max_pool2d(y.relu(), 2), (15, 28), ("height", "width")),
}


@pytest.mark.parametrize("name", ASKING)
def test_sizes_that_the_code_asks_for_stay_fixed(name: str, tmp_path: Path) -> None:
    ask, size, wanted = ASKING[name]
    report = export_onnx(AsksForSizes(ask).eval(), tmp_path / "a.onnx", example_input=torch.rand(2, 3, *size))
    assert report.inputs == {"x": ("batch", 3, *wanted)}


def halves_after_a_change_in_place(y: Tensor) -> Tensor:
    z = y * 2
    z[:, :, :2] = 1
    return z.chunk(2, 2)[0]


def test_halves_of_an_open_size(tmp_path: Path) -> None:
    """torch's exporter makes parts of a sequence of them, which it cannot compute with itself."""
    model = AsksForSizes(lambda y: torch.cat(y.chunk(2, 3), 1)).eval()
    report = export_onnx(model, tmp_path / "a.onnx", example_input=torch.rand(1, 3, 8, 12))
    assert report.inputs == {"x": ("batch", 3, "height", "width")}
    images = torch.rand(2, 3, 5, 16)
    (found,) = onnxruntime.InferenceSession(tmp_path / "a.onnx").run(None, {"x": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, model(images).numpy(), atol=1e-5)
    model, example = AsksForSizes(halves_after_a_change_in_place).eval(), torch.rand(1, 3, 8, 12)
    with pytest.raises(
        StructureError, match=r"^AsksForSizes cannot be exported: .*; if sizes are the trouble, try dyn"
    ):
        export_onnx(model, tmp_path / "b.onnx", example_input=example)
    export_onnx(model, tmp_path / "b.onnx", example_input=example, dynamic=False)
    (found,) = onnxruntime.InferenceSession(tmp_path / "b.onnx").run(None, {"x": example.numpy()})
    np.testing.assert_allclose(found, model(example).detach().numpy(), atol=1e-5)


def test_bags_of_embeddings(tmp_path: Path) -> None:
    model = nn.Sequential(nn.EmbeddingBag(40, 12), nn.Linear(12, 3)).eval()
    regularize(model, keep_ratio=0.5)
    words = torch.randint(0, 40, (6, 5))
    export_onnx(model, tmp_path / "a.onnx", example_input=words)
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: words.numpy()})
    assert np.allclose(found, model(words).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (nn.LSTM(8, 12, batch_first=True, proj_size=5), (4, 6, 8), "has proj_size, which torch's exporter to ONNX"),
        (nn.Sequential(nn.AvgPool2d(2, divisor_override=3)), (1, 3, 8, 8), "avg_pool with divisor_override"),
        (nn.Linear(8, 3).bfloat16(), (2, 8), "the network has numbers of bfloat16"),
    ],
)
def test_what_a_runtime_would_compute_otherwise_is_refused(
    model: nn.Module, shape: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    example = torch.rand(shape, dtype=next(iter(model.parameters()), torch.rand(1)).dtype)
    with pytest.raises(StructureError, match=message):
        export_onnx(model.eval(), tmp_path / "a.onnx", example_input=example)
    assert not (tmp_path / "a.onnx").exists()


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    layer = nn.Linear(4, 2)
    with pytest.raises(ArgumentError, match="export_onnx: expected a network, got its class"):
        export_onnx(nn.Linear, tmp_path / "a.onnx")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"export_onnx: expected a network .* got OrderedDict"):
        export_onnx(layer.state_dict(), tmp_path / "a.onnx")  # type: ignore[arg-type]
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        script = torch.jit.script(layer)
    with pytest.raises(StructureError, match="of TorchScript"):
        export_onnx(script, tmp_path / "a.onnx", example_input=torch.rand(1, 4))


def test_numbers_that_are_not_finite_close_no_axis(tmp_path: Path) -> None:
    model = nn.Linear(4, 4).eval()
    model.weight.data[0, 0] = float("nan")
    report = export_onnx(model, tmp_path / "a.onnx", example_input=torch.randn(2, 4))
    assert report.inputs["input"][0] == "batch"


class WithClassToken(nn.Module):
    """A network that asks for the batch by `len`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(24, 24)
        self.token = nn.Parameter(torch.randn(1, 1, 24))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(len(x), -1, -1), self.layer(x)], 1)


class OtherwiseForLargeBatches(nn.Module):
    """Such as the upsampling of diffusers, which lays large batches out anew: the tracer notes a bound on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = x + time.expand(x.shape[0])[:, None, None, None]
        result: Tensor = self.conv(x.contiguous() if x.shape[0] >= 64 else x)
        return result


def test_a_batch_of_one_that_cannot_stay_open_is_one_in_the_file(tmp_path: Path) -> None:
    """It is taken twice for tracing: the file then took a batch of two alone."""
    model, path = OtherwiseForLargeBatches().eval(), tmp_path / "a.onnx"
    x, time = torch.randn(1, 3, 9, 8), torch.tensor(3.0)
    report = export_onnx(model, path, example_input=(x, time))
    assert report.inputs == {"x": (1, 3, "height", "width"), "time": ()}
    (found,) = onnxruntime.InferenceSession(path).run(None, {"x": x.numpy(), "time": time.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x, time).detach(), rtol=1e-5, atol=1e-5)


def test_a_batch_that_is_asked_for_by_len_stays_open(tmp_path: Path) -> None:
    model, path = WithClassToken().eval(), tmp_path / "a.onnx"
    report = export_onnx(model, path, example_input=torch.randn(4, 7, 24))
    assert report.inputs["x"][0] == "batch"
    x = torch.randn(9, 5, 24)
    (found,) = onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x).detach(), rtol=1e-5, atol=1e-5)


class Counting(nn.Module):
    """Counts its calls in a buffer, and may use the number."""

    calls: Tensor

    def __init__(self, uses_it: bool) -> None:
        super().__init__()
        self.layer, self.uses_it = nn.Linear(8, 8), uses_it
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 8)."""
        self.calls.add_(1)
        y: Tensor = self.layer(x)
        return y * (1 + 0.1 * self.calls) if self.uses_it else y


@pytest.mark.parametrize("uses_it", [False, True])
def test_outputs_of_a_state_that_is_written_are_refused(uses_it: bool, tmp_path: Path) -> None:
    model, x = Counting(uses_it).eval(), torch.randn(3, 8)
    if uses_it:
        with pytest.raises(StructureError, match="writes the buffer 'calls', on which its outputs depend"):
            export_onnx(model, tmp_path / "a.onnx", example_input=x)
        return
    export_onnx(model, tmp_path / "a.onnx", example_input=x)
    (found,) = onnxruntime.InferenceSession(tmp_path / "a.onnx").run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x).detach(), rtol=1e-5, atol=1e-5)


class Same(nn.Module):
    """Gives one tensor under several names."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout = nn.Linear(8, 8), nn.Dropout()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Four outputs."""
        y = self.layer(x)
        return {"hidden": y, "dropped": self.dropout(y), "again": y, "twice": 2 * y}


def test_outputs_that_are_the_same_have_names_of_their_own(tmp_path: Path) -> None:
    model, x = Same().eval(), torch.randn(3, 8)
    regularize(model, num_kept=9, warn=False)
    report = export_onnx(model, tmp_path / "a.onnx", example_input=x)
    assert list(report.outputs) == ["hidden", "dropped", "again", "twice"]
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    for name, wanted in model(x).items():
        (found,) = session.run([name], {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), wanted.detach(), rtol=1e-5, atol=1e-5)
