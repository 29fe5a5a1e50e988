import pytest
import torch
from torch import nn

from tailcut.training.ema import MovingAverage
from tailcut.weights import TailTruncation, kept_counts, regularize


def small_network() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    regularize(network, num_kept=20)
    return network


def move(network: nn.Module, step: int) -> None:
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * step + number)))


def test_the_average_follows_its_recurrence() -> None:
    network = small_network()
    average = MovingAverage(network, 0.6)
    name, parameter = next(iter(network.named_parameters()))
    expected = parameter.detach().clone()
    for step in range(1, 8):
        move(network, step)
        average.update()
        decay = min(0.6, (step + 1) / (step + 10))
        expected = decay * expected + (1 - decay) * parameter.detach()
    torch.testing.assert_close(average.values[name], expected)


def test_the_model_gets_its_own_numbers_back_after_lending() -> None:
    network = small_network()
    average = MovingAverage(network, 0.9)
    move(network, 1)
    average.update()
    own = [parameter.detach().clone() for parameter in network.parameters()]
    with average.lent():
        assert not torch.equal(next(network.parameters()), own[0])
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), own, strict=True))


def test_cuts_and_shortened_vectors_are_followed() -> None:
    network = small_network()
    schedule = TailTruncation(network, num_kept=5, num_steps=2, spacing="geometric")
    average = MovingAverage(network, 0.5)
    move(network, 1)
    average.update()
    schedule.step()
    move(network, 2)
    average.update()
    schedule.finish()
    move(network, 3)
    average.update()
    average.give()
    assert set(kept_counts(network).values()) == {5}
    assert [len(value) for value in average.values.values()] == [len(p) for p in network.parameters()]


def test_a_state_goes_on_where_it_was() -> None:
    networks = [small_network(), small_network()]
    averages = [MovingAverage(network, 0.5) for network in networks]
    schedules = [TailTruncation(network, num_kept=5, num_steps=2, spacing="geometric") for network in networks]
    for network, average, schedule in zip(networks, averages, schedules, strict=True):
        move(network, 1)
        average.update()
        schedule.step()
    state = averages[0].state_dict()
    values = state["values"]
    assert isinstance(values, dict)
    kept = set(kept_counts(networks[0]).values())
    assert kept == {10}
    assert {len(value) for name, value in values.items() if "original" in name} == kept

    averages[1] = MovingAverage(networks[1], 0.5)
    averages[1].load_state_dict(state)
    for network, average in zip(networks, averages, strict=True):
        move(network, 2)
        average.update()
        average.give()
    inputs = torch.randn(4, 12)
    assert torch.equal(networks[0](inputs), networks[1](inputs))


def test_another_state_is_refused() -> None:
    with pytest.raises(TypeError, match="no state of a MovingAverage"):
        MovingAverage(small_network(), 0.5).load_state_dict({"num_updates": 1, "values": 3})


def test_a_parameter_without_axes_is_restored() -> None:
    def scaled() -> nn.Module:
        network = small_network()
        network.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
        return network

    average = MovingAverage(scaled(), 0.9)
    move(average.model, 1)
    average.update()
    other = MovingAverage(scaled(), 0.9)
    other.load_state_dict(average.state_dict())
    assert all(torch.equal(other.values[name], value) for name, value in average.values.items())
    assert other.values["scale"].shape == ()
