import pytest

from tailcut.execution.cost import DEVICES, Costs


def test_a_gradient_costs_more() -> None:
    without, with_it = (Costs.of("cpu", with_gradients=flag) for flag in (False, True))
    assert with_it.tiles(1e9) > without.tiles(1e9)
    assert with_it.product(1e9, 1e6, 64) > without.product(1e9, 1e6, 64)
    assert with_it.move(1e6) > without.move(1e6)
    assert with_it.overhead() > without.overhead()


def test_few_channels_are_slow() -> None:
    costs = Costs.of("cpu", with_gradients=False)
    assert costs.product(1e9, 0, 4) > 2 * costs.product(1e9, 0, 64)
    assert costs.product(1e9, 0, 64) == costs.product(1e9, 0, 128)


def test_memory_bounds_a_small_product() -> None:
    costs = Costs.of("cpu", with_gradients=False)
    assert costs.product(1, 15e9, 64) == pytest.approx(1, rel=0.01)


def test_unknown_devices_count_as_gpus() -> None:
    assert Costs.of("xpu", with_gradients=False).device is DEVICES["cuda"]
