import pytest
from tests.format.networks import resnet20

from tailcut.errors import CorruptFileError, LimitError, TruncatedFileError
from tailcut.format import encode_network
from tailcut.format.container.level_blocks import split_blocks


def test_rules_of_the_head() -> None:
    content, _ = encode_network(resnet20(), dtype="float32", levels=(0.25, 0.5))
    for changed, error, message in (
        (content[:5] + b"\x01" + content[6:], LimitError, "1 levels, 2 to 8"),
        (content[:5] + b"\x09" + content[6:], LimitError, "9 levels, 2 to 8"),
        (content[:6] + b"\x00" + content[7:], CorruptFileError, "no part"),
        (content + b"\x00", CorruptFileError, "1 bytes follow the highest level"),
        (content[:20], TruncatedFileError, "within level 1 of 3"),
    ):
        with pytest.raises(error, match=message):
            split_blocks(changed, None)
