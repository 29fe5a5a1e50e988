import json

from tailcut.execution.lazy.context import LayerRecord
from tailcut.execution.wrapper.report import report_of


def test_it_prints_and_gives_json() -> None:
    record = LayerRecord("conv", "fused", ["no full map is written"], 2e6, 3e6, 4e6, 5e6)
    report = report_of([record], ((1, 3, 8, 8),), ["conv", "lost"], "torch")
    text = str(report)
    assert "conv   fused       2.00   3.00      4.00   5.00  no full map is written" in text
    assert "\n\nengine: torch\n\n" in text
    assert text.endswith("not run by the example: lost")
    assert json.loads(report.to_json())["layers"][0]["macs"] == 2_000_000
