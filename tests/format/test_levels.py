import math
from pathlib import Path

import pytest
import torch
from tests.format.networks import resnet20, vectors
from torch import nn

import tailcut
from tailcut.errors import ArgumentError, ChecksumError, LimitError, TruncatedFileError
from tailcut.format.level_streams import coefficient_streams
from tailcut.format.network.levels import network_levels
from tailcut.format.network.tensors import network_tensors
from tailcut.limits import command_line_limit
from tailcut.structure import record_of
from tailcut.tasks.cut import cut_file
from tailcut.weights import kept_counts

LEVELS = (0.25, 0.5)


def counts(model: nn.Module, level: int) -> dict[str, int]:
    """By the formula of SPEC.md, for `LEVELS`: half of the level above, rounded up."""
    found = kept_counts(model)
    for _ in range(3 - level):
        found = {name: math.ceil(count / 2) for name, count in found.items()}
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "quantized"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_level_has_the_first_numbers_of_the_whole(dtype: str, level: int, tmp_path: Path) -> None:
    model = resnet20()
    tailcut.save(model, tmp_path / "plain.tailcut", dtype=dtype)
    tailcut.save(model, tmp_path / "levels.tailcut", dtype=dtype, levels=LEVELS)
    whole, found = tailcut.load(tmp_path / "plain.tailcut"), tailcut.load(tmp_path / "levels.tailcut", level=level)
    assert kept_counts(found) == counts(model, level)
    expected = vectors(whole)
    for name, vector in vectors(found).items():
        assert torch.equal(vector, expected[name][: len(vector)]), name
    rest = {name: value for name, value in whole.state_dict().items() if "parametrizations" not in name}
    assert rest
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in rest.items())


@pytest.mark.parametrize("dtype", ["float16", "quantized"])
def test_a_file_cut_at_the_end_of_a_level_is_that_level(dtype: str, tmp_path: Path) -> None:
    model, path, part = resnet20(), tmp_path / "a.tailcut", tmp_path / "part.tailcut"
    tailcut.save(model, path, dtype=dtype, levels=LEVELS)
    report, content = tailcut.inspect(path), path.read_bytes()
    assert [entry.num_kept for entry in report.levels] == [sum(counts(model, level).values()) for level in (1, 2, 3)]
    ends = [entry.file_bytes for entry in report.levels]
    assert ends == sorted(set(ends))
    assert ends[-1] == len(content) == report.file_bytes == sum(report.bytes_by_kind.values())
    for level, end in enumerate(ends, start=1):
        part.write_bytes(content[:end])
        assert kept_counts(tailcut.load(part)) == counts(model, level)
        found = tailcut.inspect(part)
        assert (found.num_levels, len(found.levels)) == (3, level)
        assert ("cut off" in str(found)) == (level < 3)
        assert sum(found.bytes_by_kind.values()) == end
        cut_file(path, tmp_path / "cut.tailcut", level=level)
        assert (tmp_path / "cut.tailcut").read_bytes() == content[:end]
    part.write_bytes(content[: ends[1] + 3])
    with pytest.raises(TruncatedFileError, match=r"ends within level 3 of 3; .*load\(path, level=2\)"):
        tailcut.load(part)
    assert kept_counts(tailcut.load(part, level=2)) == counts(model, 2)
    part.write_bytes(content[: ends[0]])
    with pytest.raises(TruncatedFileError, match="ends within level 2 of 3"):
        tailcut.load(part, level=2)


def test_what_lies_behind_a_level_is_not_looked_at(tmp_path: Path) -> None:
    model, path = resnet20(), tmp_path / "a.tailcut"
    tailcut.save(model, path, levels=LEVELS)
    end, content = tailcut.inspect(path).levels[1].file_bytes, bytearray(path.read_bytes())
    content[end + 40] ^= 1
    path.write_bytes(content)
    assert kept_counts(tailcut.load(path, level=2)) == counts(model, 2)
    with pytest.raises(ChecksumError, match=r"checksum of level 3 .*take what is whole"):
        tailcut.load(path)
    content[end - 10] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumError, match="checksum of level 2"):
        tailcut.load(path, level=2)


@pytest.mark.parametrize("name", ["lenet5-776", "unet-759-float16"])
def test_three_levels_cost_less_than_two_percent(name: str, tmp_path: Path) -> None:
    model = tailcut.load(f"zoo:{name}")
    plain = tailcut.save(model, tmp_path / "plain.tailcut", dtype="float16").file_bytes
    assert tailcut.save(model, tmp_path / "a.tailcut", dtype="float16", levels=LEVELS).file_bytes < 1.02 * plain


class WithTables(nn.Module):
    """The last whole number of a level and the first of the next lie further apart than those within one."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.register_buffer("first", torch.tensor([-600_000, 0]))
        self.norm = nn.BatchNorm2d(8)
        self.norm.register_buffer("last", torch.tensor([600_000]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(images))  # type: ignore[no-any-return]


def test_whole_numbers_are_those_of_the_network_in_every_level(tmp_path: Path) -> None:
    model, path = WithTables(), tmp_path / "a.tailcut"
    tailcut.regularize(model, num_kept=20)
    tailcut.save(model, path, dtype="quantized", levels=LEVELS, loader=[torch.randn(4, 3, 8, 8)])
    for level in (1, 2, 3):
        found = tailcut.load(path, into=WithTables(), level=level)
        assert torch.equal(found.get_buffer("first"), model.get_buffer("first"))
        assert torch.equal(found.get_buffer("norm.last"), model.get_buffer("norm.last"))


class Wide(nn.Module):
    """Many numbers that are not truncated, and statistics, for which all of these are in the file level by level."""

    def __init__(self) -> None:
        super().__init__()
        self.truncated, self.plain = nn.Linear(4, 4), nn.Linear(600, 600)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.norm(self.truncated(inputs))  # type: ignore[no-any-return]


def test_levels_that_load_refuses_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, path = Wide(), tmp_path / "a.tailcut"
    tailcut.regularize(model, include="truncated.*", num_kept=8)
    # Four levels have 360,604 numbers anew, which counts as 4 x 4 x 360,604 > 2^22.
    settings = {"levels": (0.2, 0.4, 0.6, 0.8), "loader": [torch.randn(8, 4)]}
    tailcut.save(model, path, **settings)  # type: ignore[arg-type]
    assert not caplog.records
    tailcut.load(path, into=Wide())
    with command_line_limit(1_000_000):
        tailcut.save(model, path, **settings)  # type: ignore[arg-type]
        assert "load refuses this file" in caplog.text
        assert "raise --max-parameters" in caplog.text
        with pytest.raises(LimitError, match="levels repeat"):
            tailcut.load(path, into=Wide())


def test_an_own_class(tmp_path: Path) -> None:
    def fresh() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 4))

    model, path = fresh(), tmp_path / "a.tailcut"
    tailcut.regularize(model, num_kept=20)
    tailcut.save(model, path, levels=(0.1,))
    small = tailcut.load(path, into=fresh(), level=1)
    assert kept_counts(small) == {name: math.ceil(count * 26 / 256) for name, count in kept_counts(model).items()}
    tailcut.save(small, tmp_path / "again.tailcut")
    assert tailcut.inspect(tmp_path / "again.tailcut").levels == ()
    assert tailcut.inspect(path).num_levels == 2


def test_streams_have_each_number_once() -> None:
    model = resnet20()
    edits = [edit.current(model) for edit in record_of(model).edits]
    levels = network_levels(model, network_tensors(model, edits), edits, (128, 128), None)
    streams = coefficient_streams(levels, torch.float32)
    sizes = [sum(counts(model, level).values()) for level in (1, 2, 3)]
    known = b""
    for stream, more in zip(streams, (sizes[0], sizes[1] - sizes[0], sizes[2] - sizes[1]), strict=True):
        content = stream.decode(more, known)
        assert len(content) == 4 * more
        known += content
    assert [level.has_others for level in levels] == [True, False, False]


def test_bad_levels(tmp_path: Path) -> None:
    model = resnet20()
    for levels in ((0.5, 0.25), (0.0,), (1.0,), (0.5, 0.5), ("a",), (float("nan"),), (0.9999,)):
        with pytest.raises(ArgumentError, match="levels must"):
            tailcut.save(model, tmp_path / "a.tailcut", levels=levels)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="at most 8 levels"):
        tailcut.save(model, tmp_path / "a.tailcut", levels=[number / 10 for number in range(1, 10)])
    with pytest.raises(ArgumentError, match="levels need a truncated network"):
        tailcut.save(tailcut.create_model("resnet20"), tmp_path / "a.tailcut", levels=LEVELS)
    with pytest.raises(ArgumentError, match="loader= is for a file with levels"):
        tailcut.save(model, tmp_path / "a.tailcut", loader=[torch.rand(1, 3, 32, 32)])
    assert not (tmp_path / "a.tailcut").exists()
    tailcut.save(model, tmp_path / "a.tailcut", levels=LEVELS)
    for level in (0, 4, -1, 1.0, True, "1"):
        with pytest.raises(ArgumentError, match="level"):
            tailcut.load(tmp_path / "a.tailcut", level=level)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="no levels, asked for was level 2"):
        tailcut.load("zoo:lenet5-776", level=2)
    assert kept_counts(tailcut.load("zoo:lenet5-776", level=1))


def test_levels_just_above_the_cap_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, path = Wide(), tmp_path / "a.tailcut"
    tailcut.regularize(model, include="truncated.*", num_kept=8)
    with command_line_limit(1_000_000):  # other tensors of three levels are 3 x 4 x 360,604 > 2^22, those of two not
        tailcut.save(model, path, levels=(0.2, 0.5, 0.8), loader=[torch.randn(8, 4)])
        assert "load refuses this file" in caplog.text
        with pytest.raises(LimitError):
            tailcut.load(path, into=Wide())
