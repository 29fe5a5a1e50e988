from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch

from tailcut.errors import MissingExtraError
from tailcut.evaluation.pixel_inputs import reader_of
from tailcut.format import load, save
from tailcut.inputs import replace_stem, transform_of, use_ycbcr
from tailcut.structure import create_model
from tailcut.weights import regularize, to_dense

Tailcut = Callable[..., Any]
# A network on frequency channels that a gate chooses, one by one: C code has no form of that.
GATED = Path(__file__).parents[2] / "format" / "golden" / "edits" / "stem-gate-regularized.tailcut"


def test_onnx_runs_and_gives_the_same(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    outcome = tailcut("export", packed, "--to", "onnx", "-o", out, "--json")
    assert outcome.code == 0
    stages = ["running the example", "finding the sizes that may vary", "tracing", "converting", "making it small"]
    assert outcome.err.splitlines() == [f"{stage} ..." for stage in (*stages, "writing")]
    assert outcome.json["file_bytes"] == out.stat().st_size < 20_000
    assert outcome.json["inputs"] == {"x": ["batch", 1, 28, 28]}
    assert [tensor["num_kept"] for tensor in outcome.json["tensors"]] == [50, 50, 50]
    x = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        expected = load(packed)(x).numpy()
    found = onnxruntime.InferenceSession(out).run(None, {"x": x.numpy()})[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("make", ["channels", "ycbcr", "pixels"])
def test_a_network_on_frequency_channels_takes_pixels(make: str, tailcut: Tailcut, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("resnet20")
    if make == "channels":
        replace_stem(model, 24)
        transform = transform_of(model)
        assert transform is not None
        transform.fit([torch.rand(8, 3, 64, 64)])
    if make == "ycbcr":
        use_ycbcr(model)
    regularize(model, keep_ratio=0.2)
    save(model, tmp_path / "a.tailcut")
    outcome = tailcut("export", tmp_path / "a.tailcut", "--to", "onnx", "--input", "pixels", "-o", tmp_path / "a.onnx")
    assert outcome.code == 0, outcome.err
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    (entry,) = session.get_inputs()
    assert entry.name == ("x" if make == "pixels" else "pixels")
    loaded = load(tmp_path / "a.tailcut").eval()
    read = reader_of(loaded)
    for height, width in ((256, 256), (67, 90)):
        pixels = torch.rand(2, 3, height, width)
        with torch.no_grad():
            expected = loaded(read(pixels)).numpy()
        (found,) = session.run(None, {entry.name: pixels.numpy()})
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_only_a_program_has_an_input(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    outcome = tailcut("export", packed, "--to", "torch", "--input", "pixels", "-o", tmp_path / "a")
    assert outcome.code == 2
    assert "--input is for --to onnx" in outcome.err
    assert "--to torch takes no --input" in outcome.err


def test_only_the_batch_of_a_program_may_vary(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    given = "export", packed, "-o", tmp_path / "a", "--json", "--dynamic"
    inputs = [tailcut(*given, word, "--to", "onnx").json["inputs"] for word in ("batch", "none")]
    assert [shape[0] for (shape,) in (one.values() for one in inputs)] == ["batch", 1]
    outcome = tailcut(*given, "batch", "--to", "c")
    assert outcome.code == 2
    assert "--dynamic is for --to onnx; --to c takes no --dynamic" in outcome.err


def test_c_in_integers(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    outcome = tailcut("export", packed, "--to", "c", "--arithmetic", "integer", "-o", tmp_path / "c", "--json")
    assert outcome.code == 0
    assert outcome.json["arithmetic"] == "integer"
    assert (tmp_path / "c" / "tailcut_run_integer.c").exists()
    outcome = tailcut("export", packed, "--to", "onnx", "--arithmetic", "integer", "-o", tmp_path / "a")
    assert outcome.code == 2
    assert "--arithmetic is for --to c" in outcome.err


@pytest.mark.parametrize(("target", "name"), [("onnx", "a.onnx"), ("c", "c/model.c"), ("html", "a.html")])
def test_a_level_of_a_progressive_file(
    target: str, name: str, tailcut: Tailcut, levels: Path, part: Path, tmp_path: Path
) -> None:
    found = []
    for source, words in ((part, ()), (levels, ("--level", 1)), (levels, ())):
        out = tmp_path / (Path(name).parts[0])
        assert tailcut("export", source, "--to", target, "-o", out, *words).code == 0
        found.append((tmp_path / name).read_text(errors="replace").replace("part", "levels"))
    assert found[0] == found[1] != found[2]


def test_a_file_without_levels_is_its_first(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    pages = [tmp_path / "a.html", tmp_path / "b.html"]
    assert tailcut("export", packed, "--to", "html", "-o", pages[0]).code == 0
    assert tailcut("export", packed, "--to", "html", "-o", pages[1], "--level", 1).code == 0
    assert pages[0].read_text() == pages[1].read_text()


@pytest.mark.parametrize("target", ["safetensors", "torch"])
def test_dense_weights_are_written(target: str, tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    out = tmp_path / "dense"
    outcome = tailcut("export", packed, "--to", target, "-o", out, "--json")
    assert outcome.code == 0
    assert outcome.json["num_parameters"] == 266_200
    assert outcome.json["file_bytes"] == out.stat().st_size
    state = torch.load(out, weights_only=True) if target == "torch" else safetensors.torch.load_file(out)
    expected = to_dense(load(packed)).state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_bad_usage(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    assert tailcut("export", packed, "-o", tmp_path / "a").code == 2
    assert tailcut("export", packed, "--to", "caffe", "-o", tmp_path / "a").code == 2
    outcome = tailcut("export", packed, "--to", "torch", "-o", tmp_path / "nowhere" / "a.pt")
    assert outcome.code == 2
    assert "nowhere" in outcome.err


def test_a_missing_extra_is_a_failed_job(
    tailcut: Tailcut, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: object, **options: object) -> None:
        raise MissingExtraError("export_onnx", "onnx", "onnx")

    monkeypatch.setattr("tailcut.tasks.export.export_onnx", missing)
    outcome = tailcut("export", packed, "--to", "onnx", "-o", tmp_path / "a.onnx", "--json")
    assert outcome.code == 1
    assert outcome.json["error"]["type"] == "MissingExtraError"


def test_a_page_is_written(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    page = tmp_path / "digits.html"
    outcome = tailcut("export", packed, "--to", "html", "-o", page, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["page_bytes"] == page.stat().st_size
    assert outcome.json["file_bytes"] == packed.stat().st_size
    assert outcome.json["input_shapes"] == [[1, 28, 28]]
    assert f"<h1>{packed.stem}</h1>" in page.read_text(encoding="utf-8")
    outcome = tailcut("export", "zoo:unet-759-float16", "--to", "html", "--size", "32x48", "-o", page)
    assert outcome.code == 0, outcome.err
    assert "input 3 x 32 x 48 or 3 x 48 x 32" in outcome.out
    assert "<h1>zoo:unet-759-float16</h1>" in page.read_text(encoding="utf-8")
    outcome = tailcut("export", packed, "--to", "torch", "--size", "32x48", "-o", page)
    assert outcome.code == 2
    assert "--size is for --to c and html" in outcome.err


def test_a_page_of_what_the_runner_does_not_know_is_refused(tailcut: Tailcut, tmp_path: Path) -> None:
    outcome = tailcut("export", GATED, "--to", "html", "-o", tmp_path / "page.html", "--json")
    assert outcome.code != 0
    assert outcome.json["error"]["type"] == "StructureError"
    assert "select (network.normalize)" in outcome.json["error"]["message"]
    assert not (tmp_path / "page.html").exists()


def test_c_code_of_another_size(tailcut: Tailcut, tmp_path: Path) -> None:
    words = ["export", "zoo:unet-759-float16", "--to", "c", "--size", "32x48", "-o", tmp_path / "c", "--json"]
    assert tailcut(*words).json["input_shape"] == [3, 32, 48]
