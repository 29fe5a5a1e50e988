"""What a file may ask for: the rules; what loading takes in fact is in tests/format/hostile/test_bounds.py."""

import pytest

from tailcut.errors import ArgumentError, LimitError
from tailcut.limits import (
    MAX_PARAMETERS,
    MAX_TENSORS,
    check_total,
    check_work,
    command_line_limit,
    limit_of,
    non_finite_allowed,
)


def test_the_limit_is_the_one_given_else_that_of_the_command_line() -> None:
    assert limit_of(None) == MAX_PARAMETERS
    assert limit_of(7) == 7
    with command_line_limit(100):
        assert limit_of(None) == 100
        assert limit_of(7) == 7
    with command_line_limit(None):
        assert limit_of(None) == MAX_PARAMETERS
    assert limit_of(None) == MAX_PARAMETERS


def test_numbers_that_are_not_finite_are_allowed_as_given_or_on_the_command_line() -> None:
    assert (non_finite_allowed(False), non_finite_allowed(True)) == (False, True)
    with command_line_limit(None, allow_non_finite=True):
        assert non_finite_allowed(False)
    with command_line_limit(None):
        assert not non_finite_allowed(False)


@pytest.mark.parametrize("number", [0, -1])
def test_a_limit_below_one_is_refused(number: int) -> None:
    expected = pytest.raises(ArgumentError, match=f"--max-parameters must be at least 1, got {number}")
    with expected, command_line_limit(number):
        pass


def test_the_advice_fits_where_the_user_is() -> None:
    with pytest.raises(LimitError, match=r"raise the cap with max_parameters=$"):
        check_total([(3, 4)], 11)
    with command_line_limit(None), pytest.raises(LimitError, match=r"raise --max-parameters$"):
        check_total([(3, 4)], 11)
    check_total([(3, 4)], 12)


@pytest.mark.parametrize(
    ("tensors", "kept", "edits", "max_parameters"),
    [(2048, 0, 0, 1), (663, 333, 1, 1_700_000), (MAX_TENSORS, MAX_TENSORS, 16, MAX_PARAMETERS)],
)
def test_networks_that_exist_pass(tensors: int, kept: int, edits: int, max_parameters: int) -> None:
    check_work(tensors, num_kept=kept, num_edits=edits, max_parameters=max_parameters)


@pytest.mark.parametrize(
    ("tensors", "kept", "edits", "max_parameters"),
    [(2049, 0, 0, 1), (4408, 0, 0, 10_000_000), (1000, 800, 1, 10_000_000), (1100, 0, 16, 4_000_000)],
)
def test_many_small_tensors_count(tensors: int, kept: int, edits: int, max_parameters: int) -> None:
    with pytest.raises(LimitError, match=rf"has {tensors} tensors or more, {kept} of them .* {edits} edits"):
        check_work(tensors, num_kept=kept, num_edits=edits, max_parameters=max_parameters)


def test_too_many_tensors_whatever_is_allowed() -> None:
    with pytest.raises(LimitError, match=f"more than {MAX_TENSORS} tensors"):
        check_work(MAX_TENSORS + 1, max_parameters=1 << 60)
