import pytest

from tools.docs import markdown


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (600, "10 min"), (9000, "2.5 h")])
def test_duration(seconds: float, text: str) -> None:
    assert markdown.duration(seconds) == text


def test_table() -> None:
    rows = [["x", markdown.percent(0.9752)], ["y", markdown.counted(1, "thread")], ["z", markdown.counted(2, "thread")]]
    assert markdown.markdown_table(["a", "b"], rows, "<>").splitlines() == [
        "| a | b |",
        "| --- | ---: |",
        "| x | 97.52 % |",
        "| y | 1 thread |",
        "| z | 2 threads |",
    ]
