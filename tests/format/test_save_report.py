"""Reports of files: sizes beside the dense network's."""

from pathlib import Path

import pytest
import torch
from torch import nn

import tailcut
from tailcut.format.save_report import compression_ratio, dense_bytes, size_text


def test_the_report_counts_what_is_in_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 5))
    tailcut.regularize(model, num_kept=8, include="*.weight")
    report = tailcut.save(model, tmp_path / "a.tailcut")
    count = 20 * 30 + 30 + 30 * 5 + 5
    assert (report.num_parameters, report.num_truncated, report.num_kept) == (count, 20 * 30 + 30 * 5, 16)
    assert report.file_bytes == (tmp_path / "a.tailcut").stat().st_size
    assert report.dense_bytes == 4 * count == dense_bytes(count)
    assert report.compression_ratio == pytest.approx(4 * count / report.file_bytes, abs=1e-4)
    assert str(report).startswith(f"{tmp_path / 'a.tailcut'}: {report.file_bytes:,} bytes for {4 * count:,} of dense")
    assert str(report).endswith(f"; 16 coefficients for 750 of {count} parameters")


def test_a_network_without_parameters_has_no_ratio() -> None:
    assert compression_ratio(0, 100) is None
    assert size_text("a", 100, 0, None) == "a: 100 bytes for 0 of dense float32 parameters"
