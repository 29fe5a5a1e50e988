import pytest

from tailcut.execution.ir.cost import DEVICES, Costs

WITHOUT, WITH = (Costs.of("cpu", with_gradients=flag) for flag in (False, True))


def test_a_gradient_costs_more() -> None:
    assert WITH.tiles(1e9, 1e6) > WITHOUT.tiles(1e9, 1e6)
    assert WITH.product(1e9, 1e6, 64, 64) > WITHOUT.product(1e9, 1e6, 64, 64)
    assert WITH.move(1e6) > WITHOUT.move(1e6)
    assert WITH.overhead() > WITHOUT.overhead()


def test_weights_are_made_once_without_gradients() -> None:
    assert WITHOUT.rebuild(1e9, 1e9, is_whole=True) == 0
    assert WITH.rebuild(1e9, 1e6, is_whole=True) > WITH.rebuild(0, 1e6, is_whole=True) > 0


def test_a_whole_weight_is_never_dearer_than_a_fast_transform() -> None:
    assert WITH.rebuild(1e15, 1e6, is_whole=True) < WITH.rebuild(1e15, 1e6, is_whole=False)


def test_few_channels_are_slow() -> None:
    assert WITHOUT.product(1e9, 0, 64, 4) > 2 * WITHOUT.product(1e9, 0, 64, 64)
    assert WITHOUT.product(1e9, 0, 4, 64) > 1.5 * WITHOUT.product(1e9, 0, 64, 64)
    assert WITHOUT.product(1e9, 0, 64, 64) == WITHOUT.product(1e9, 0, 128, 128)


def test_memory_bounds_a_small_product() -> None:
    assert WITHOUT.product(1, 6e9, 64, 64) == pytest.approx(1, rel=0.01)


def test_numbers_of_a_tile_cost_beside_their_products() -> None:
    assert WITHOUT.tiles(1e9, 1e9) > 2 * WITHOUT.tiles(1e9, 0)


def test_a_long_chain_is_written_and_with_gradients_later() -> None:
    lengths = range(1, 100)
    first = {costs: next(n for n in lengths if costs.is_costly(n * 1000, n * 64, 4 * 64)) for costs in (WITHOUT, WITH)}
    assert 1 < first[WITHOUT] < first[WITH]


def test_a_network_must_gain_more_where_its_weights_are_kept() -> None:
    assert WITH.network_pays(0.7, 1.0)
    assert not WITHOUT.network_pays(0.7, 1.0)
    assert WITHOUT.network_pays(0.4, 1.0)
    assert not WITH.network_pays(0.9, 1.0)


def test_a_layer_must_gain_more_without_gradients() -> None:
    assert WITHOUT.is_clearly_less(0.5, 1.0)
    assert not WITHOUT.is_clearly_less(0.7, 1.0)
    assert WITH.is_clearly_less(0.7, 1.0)
    assert not WITH.is_clearly_less(0.8, 1.0)


def test_unknown_devices_count_as_gpus() -> None:
    assert Costs.of("xpu", with_gradients=False).device is DEVICES["cuda"]


def test_dense_products_gain_by_matrix_units_and_tiles_do_not() -> None:
    full, rounded = (Costs.of("cuda", with_gradients=False, tensor_cores=flag) for flag in (False, True))
    assert full.product(1e12, 0, 64, 64) > 4 * rounded.product(1e12, 0, 64, 64)
    assert full.tiles(1e12, 1e9) == rounded.tiles(1e12, 1e9)
