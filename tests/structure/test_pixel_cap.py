import pytest

from tailcut.errors import LimitError
from tailcut.structure import create_model
from tailcut.structure.pixel_cap import MAX_INPUT_PIXELS, check_pixels


def test_images_up_to_the_cap_are_let_through() -> None:
    assert MAX_INPUT_PIXELS == 2**24
    check_pixels(create_model("resnet20"), (4096, 4096))
    check_pixels(create_model("resnet20"), (3, 1 << 24, 1))


@pytest.mark.parametrize("size", [(4096, 4097), (65536, 65536)])
def test_larger_ones_are_refused_unless_allowed(size: tuple[int, int]) -> None:
    network = create_model("resnet20")
    with pytest.raises(LimitError, match=r"65,536|4,097.*--max-input-pixels"):
        check_pixels(network, size)
    check_pixels(network, size, max_input_pixels=size[0] * size[1])


def test_networks_that_enlarge_their_images_are_seen_through() -> None:
    network = create_model("alexnet", resize=5000, width=1, hidden=1)
    with pytest.raises(LimitError, match="5,000 x 5,000 pixels"):
        check_pixels(network, (32, 32))
    check_pixels(network, (32, 32), max_input_pixels=25_000_000)
