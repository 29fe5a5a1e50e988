from pathlib import Path

import pytest

import tailcut
from tailcut.errors import MAX_SHOWN, CorruptFileError, FormatError, first_line, shown
from tailcut.format.container.contents import Contents, StoredBase, encode


def test_text_of_a_file_commands_no_terminal() -> None:
    assert shown("a\x1b[2J\u202eb\u2066\x9bc\u200f") == r"a\x1b[2J\u202eb\u2066\x9bc\u200f"
    assert shown("é 漢字\nline") == "é 漢字\nline"


def test_long_text_loses_its_middle() -> None:
    assert shown("a" * 100_000 + "end", at_most=20) == "a" * 10 + " ... " + "a" * 7 + "end"
    assert shown("x" * MAX_SHOWN) == "x" * MAX_SHOWN


@pytest.mark.parametrize("value", [tuple(("\u202e" * 1000,) * 100 for _ in range(2)), "\u202e" * 1300])
def test_a_message_about_a_file_is_short_and_plain(value: object, tmp_path: Path) -> None:
    path = tmp_path / "long.tailcut"
    base = StoredBase("lenet5", ((1, value),))  # type: ignore[arg-type]
    path.write_bytes(encode(Contents(base, b"1234", {}, ())))
    with pytest.raises(FormatError) as caught:
        tailcut.load(path)
    message = str(caught.value)
    assert len(message) < len(str(path)) + MAX_SHOWN + 20
    assert message.isprintable()
    assert "num_classes" in message


def test_the_first_line_of_an_error() -> None:
    assert first_line(CorruptFileError("\n first \n second")) == "first"
    assert first_line(CorruptFileError()) == "CorruptFileError"
