import pytest

from tailcut.execution.ir.cost import DEVICES, Costs


def test_a_gradient_costs_more() -> None:
    without, with_it = (Costs.of("cpu", with_gradients=flag) for flag in (False, True))
    assert with_it.tiles(1e9, 1e6) > without.tiles(1e9, 1e6)
    assert with_it.product(1e9, 1e6, 64, 64) > without.product(1e9, 1e6, 64, 64)
    assert with_it.move(1e6) > without.move(1e6)
    assert with_it.overhead() > without.overhead()


def test_weights_are_made_once_without_gradients() -> None:
    without, with_it = (Costs.of("cpu", with_gradients=flag) for flag in (False, True))
    assert without.rebuild(1e9, 1e9, is_whole=True) == 0
    assert with_it.rebuild(1e9, 1e6, is_whole=True) > with_it.rebuild(0, 1e6, is_whole=True) > 0


def test_a_whole_weight_is_never_dearer_than_a_fast_transform() -> None:
    costs = Costs.of("cpu", with_gradients=True)
    assert costs.rebuild(1e15, 1e6, is_whole=True) < costs.rebuild(1e15, 1e6, is_whole=False)


def test_few_channels_are_slow() -> None:
    costs = Costs.of("cpu", with_gradients=False)
    assert costs.product(1e9, 0, 64, 4) > 2 * costs.product(1e9, 0, 64, 64)
    assert costs.product(1e9, 0, 4, 64) > 1.5 * costs.product(1e9, 0, 64, 64)
    assert costs.product(1e9, 0, 64, 64) == costs.product(1e9, 0, 128, 128)


def test_memory_bounds_a_small_product() -> None:
    costs = Costs.of("cpu", with_gradients=False)
    assert costs.product(1, 6e9, 64, 64) == pytest.approx(1, rel=0.01)


def test_numbers_of_a_tile_cost_beside_their_products() -> None:
    costs = Costs.of("cpu", with_gradients=False)
    assert costs.tiles(1e9, 1e9) > 2 * costs.tiles(1e9, 0)


def test_a_long_chain_is_written_and_with_gradients_later() -> None:
    without, with_it = (Costs.of("cpu", with_gradients=flag) for flag in (False, True))
    lengths = range(1, 100)
    first = {
        costs: next(n for n in lengths if costs.is_costly(n * 1000, n * 64, 4 * 64)) for costs in (without, with_it)
    }
    assert 1 < first[without] < first[with_it]


def test_a_network_must_gain_more_where_its_weights_are_kept() -> None:
    without, with_it = (Costs.of("cpu", with_gradients=flag) for flag in (False, True))
    assert with_it.network_pays(0.7, 1.0)
    assert not without.network_pays(0.7, 1.0)
    assert without.network_pays(0.4, 1.0)
    assert not with_it.network_pays(0.9, 1.0)


def test_a_layer_must_gain_more_without_gradients() -> None:
    without, with_it = (Costs.of("cpu", with_gradients=flag) for flag in (False, True))
    assert without.is_clearly_less(0.5, 1.0)
    assert not without.is_clearly_less(0.7, 1.0)
    assert with_it.is_clearly_less(0.7, 1.0)
    assert not with_it.is_clearly_less(0.8, 1.0)


def test_unknown_devices_count_as_gpus() -> None:
    assert Costs.of("xpu", with_gradients=False).device is DEVICES["cuda"]
