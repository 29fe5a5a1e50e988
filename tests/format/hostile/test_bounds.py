"""What loading a file takes: memory by the weights that it stands for, time by the numbers that are allowed."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.format.hostile.zeros import kept, zero_file
from tests.processor_time import within

import tailcut
from tailcut.channels.layer_kinds import layer_kind
from tailcut.channels.pruning.edit import NarrowedLayer, PruneEdit
from tailcut.weights.regularization.edit import RegularizeEdit

# Loads small files first, so that imports and the compiling of loops do not count, then each file of a list, and tells
# of each the most memory, the processor time and the error, if any. A file comes with several caps, the least first:
# once it is loaded, a higher cap would have the same done again, in a looser bound.
MEASURE = """
import json, os, pathlib, sys, time
import tailcut

def memory(key):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])

for path in json.loads(sys.argv[1]):
    tailcut.load(path)
loaded = set()
for path, cap in json.loads(sys.argv[2]):
    if path in loaded:
        continue
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before, start, error = memory("VmRSS"), time.process_time(), None
    try:
        network = tailcut.load(path, max_parameters=cap)
    except tailcut.TailcutError as problem:
        error = type(problem).__name__
    print(json.dumps([path, cap, memory("VmHWM") - before, time.process_time() - start, error]))
    if error is None:
        loaded.add(path)
    network = None
"""


def all_of(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def at_most(num: int) -> Any:
    return kept(lambda shape: min(num, math.prod(shape)))


def unchanged(model: Any) -> PruneEdit:
    """A cut that leaves every layer as wide as it is."""
    found = [(name, layer_kind(module), module) for name, module in model.named_modules()]
    return PruneEdit(
        tuple(NarrowedLayer(name, kind.number, tuple(kind.sizes(of).values())) for name, kind, of in found if kind)
    )


def long(side: int, width: int = 1) -> dict[str, Any]:
    """A transformer whose one large tensor is (1, side^2 + 1, width)."""
    return {"name": "vit", "image_size": side, "patch_size": 1, "width": width, "depth": 1, "num_heads": 1} | {
        "mlp_width": 1
    }


DEEP = {"name": "vit", "image_size": 4, "patch_size": 4, "width": 1, "depth": 367, "num_heads": 1, "mlp_width": 1}
# (arguments of the file, numbers of the network in millions); each with several caps.
FILES: dict[str, tuple[dict[str, Any], float]] = {
    "a long axis, 400 kept": ({**long(1024), "edits": [at_most(400)]}, 1.05),
    "a long axis, all kept": ({**long(1024), "edits": [kept(all_of)]}, 1.05),
    "a longer one, 160 kept": ({**long(2048, 2), "edits": [at_most(160)]}, 8.39),
    "a longer one, all kept": ({**long(2048, 2), "edits": [kept(all_of)]}, 8.39),
    "many tensors": (DEEP, 0.01),
    "many tensors kept": ({**DEEP, "edits": [at_most(1)]}, 0.01),
    "sixteen prunes": ({"name": "resnet110", "width": 1, "edits": [unchanged] * 16}, 0.01),
    "range streams": ({"name": "resnet20", "width": 2, "codec": 2, "edits": [at_most(16_000)]}, 0.01),
    "zeros": ({"name": "alexnet", "num_classes": 65_000, "width": 1, "hidden": 200}, 13.1),
    "zeros, all kept": (
        {"name": "alexnet", "num_classes": 65_000, "width": 1, "hidden": 200, "edits": [kept(all_of)]},
        13.1,
    ),
    "quantised, many": (
        {"name": "alexnet", "num_classes": 65_000, "width": 1, "hidden": 200, "codec": 3},
        13.1,
    ),
    "quantised, a long axis, all kept": ({**long(2048, 2), "codec": 3, "edits": [kept(all_of)]}, 8.39),
    "quantised, four axes, all kept": (
        {"name": "vgg16", "width": 50, "hidden": 20, "num_classes": 2, "codec": 3, "edits": [kept(all_of)]},
        9.5,
    ),
    "quantised, many tensors": ({**DEEP, "codec": 3, "edits": [at_most(1)]}, 0.01),
}


Case = tuple[str, float, Path, int]


def measured(first: list[Path], cases: list[Case]) -> list[tuple[Case, int, float, str | None]]:
    """What `MEASURE` tells of each file, at each cap up to the one that it is loaded with."""
    listed = json.dumps([(str(path), cap) for _, _, path, cap in cases])
    command = [sys.executable, "-c", MEASURE, json.dumps(list(map(str, first))), listed]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    by_file = {(str(case[2]), case[3]): case for case in cases}
    told = [json.loads(line) for line in lines]
    assert {path for path, *_ in told} == {str(path) for _, _, path, _ in cases}
    return [(by_file[path, cap], *figures) for path, cap, *figures in told]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure the most memory")
def test_memory_and_time_are_bounded(tmp_path: Path) -> None:
    first = [tmp_path / name for name in ("small.tailcut", "quantised.tailcut")]
    first[0].write_bytes(zero_file("lenet5", edits=[at_most(3)]))
    first[1].write_bytes(zero_file("lenet5", codec=3, edits=[kept(all_of)]))
    cases = []
    for number, (name, (arguments, millions)) in enumerate(FILES.items()):
        path = tmp_path / f"{number}.tailcut"
        path.write_bytes(zero_file(**arguments))
        caps = [cap for cap in (2_000_000, 10_000_000, 20_000_000) if cap >= millions * 1e6]
        cases += [(name, millions, path, cap) for cap in caps]
    for (name, millions, path, cap), memory, seconds, error in measured(first, cases):
        case = f"{name}: {path.stat().st_size} bytes, cap {cap}: {memory / 1e6:.0f} MB, {seconds:.2f} s, {error}"
        assert memory <= 8 * 4e6 * millions + 200e6, case
        limit = 2 + 2 * cap / 1e7
        assert within(seconds, limit), case
        assert error in (None, "LimitError"), case
        if "tensors" not in name:
            assert error is None, case


def first_alone(model: Any) -> RegularizeEdit:
    """One coefficient of the first parameter that can be regularised; all other tensors whole."""
    return RegularizeEdit(kept(lambda shape: 1)(model).tensors[:1])


EIGHT = (255,) * 7
WIDE = {"name": "alexnet", "num_classes": 65_000, "width": 1, "hidden": 200}
FEWER = {**DEEP, "depth": 20}
# (arguments of the file, numbers of the network in millions); each of eight levels, almost as large as the one above.
IN_LEVELS: dict[str, tuple[dict[str, Any], float]] = {
    "zeros, all kept": ({**WIDE, "edits": [kept(all_of)]}, 13.1),
    "zeros, others anew": ({**WIDE, "edits": [first_alone], "has_others": True}, 13.1),
    "a long axis, all kept": ({**long(2048, 2), "edits": [kept(all_of)]}, 8.39),
    "quantised, a long axis, all kept": ({**long(2048, 2), "codec": 3, "edits": [kept(all_of)]}, 8.39),
    "quantised, a long axis, 600,000 kept": ({**long(2048, 2), "codec": 3, "edits": [at_most(600_000)]}, 8.39),
    "quantised, others anew": ({**long(1024), "codec": 3, "edits": [first_alone], "has_others": True}, 1.05),
    "quantised, many tensors": ({**FEWER, "codec": 3, "edits": [at_most(3)], "has_others": True}, 0.01),
    "many tensors": ({**FEWER, "edits": [at_most(3)], "has_others": True}, 0.01),
    "range streams": ({"name": "resnet20", "width": 2, "codec": 2, "edits": [at_most(300)], "has_others": True}, 0.01),
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure the most memory")
def test_eight_levels_keep_the_bounds_of_memory_and_time(tmp_path: Path) -> None:
    """Files of eight levels, each almost as large as the one above, keep the bounds of files without levels."""
    first = [tmp_path / name for name in ("small.tailcut", "quantised.tailcut")]
    first[0].write_bytes(zero_file("lenet5", edits=[at_most(9)], parts=(128,)))
    first[1].write_bytes(zero_file("lenet5", codec=3, edits=[kept(all_of)], parts=(128,)))
    cases = []
    for number, (name, (arguments, millions)) in enumerate(IN_LEVELS.items()):
        path = tmp_path / f"{number}.tailcut"
        path.write_bytes(zero_file(**arguments, parts=EIGHT))
        cap = next(cap for cap in (2_000_000, 10_000_000, 20_000_000) if cap >= millions * 1e6)
        cases.append((name, millions, path, cap))
    errors = {}
    for (name, millions, path, cap), memory, seconds, error in measured(first, cases):
        errors[name] = error
        case = f"{name}: {path.stat().st_size} bytes, cap {cap}: {memory / 1e6:.0f} MB, {seconds:.2f} s, {error}"
        assert memory <= 8 * 4e6 * millions + 200e6, case
        limit = 2 + 2 * cap / 1e7
        assert within(seconds, limit), case
    assert set(errors.values()) == {None, "LimitError"}
    assert errors["quantised, others anew"] == errors["quantised, a long axis, all kept"] == "LimitError"
    assert errors["quantised, a long axis, 600,000 kept"] is None


def test_few_kept_of_a_long_axis_is_no_basis() -> None:
    import torch

    layer = torch.nn.Linear(2_000_000, 1, bias=False)
    before = layer.weight.detach().clone()
    tailcut.regularize(layer, num_kept=400)
    assert sum(buffer.numel() for buffer in layer.buffers()) < 1000
    from scipy.fft import dct

    expected = dct(before.numpy()[0].astype("float64"), norm="ortho")[:400]
    found = tailcut.weights.truncated_tensors(layer)[0].coefficients().detach().double().numpy()
    assert abs(found - expected).max() < 1e-6
