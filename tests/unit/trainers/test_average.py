"""The average of the weights: its formula, its age, batch norm, skipped steps, its state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainers.average import WeightAverage, decay


def net(layout: torch.memory_format = torch.contiguous_format) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))
    return model.to(memory_format=layout)


def walk(model: nn.Module, generator: torch.Generator) -> None:
    """One step of a random walk, and one batch for batch norm."""
    model(torch.randn(2, 2, 6, 6, generator=generator))
    for parameter in model.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("share", [0.5, 0.2, 0.05])
def test_it_is_the_power_function_average(share: float, layout: torch.memory_format) -> None:
    """After n steps those of step i weigh i^k - (i - 1)^k, statistics of batch norm too."""
    model = net(layout)
    average, generator = WeightAverage(model, share), torch.Generator().manual_seed(1)
    seen: list[dict[str, torch.Tensor]] = []
    steps = 12
    for step in range(1, steps + 1):
        walk(model, generator)
        average.update(step)
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
    k = 1 / share - 1
    parts = torch.tensor([i**k - (i - 1) ** k for i in range(1, steps + 1)]) / steps**k
    for name, value in average.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == seen[-1][name] == steps
            continue
        expected = sum(part * state[name] for part, state in zip(parts, seen, strict=True))
        assert torch.allclose(value, expected, atol=1e-5), name
        assert value.stride() == seen[-1][name].stride()
    assert not average.model.training and model.training


@pytest.mark.parametrize("steps", [100, 10_000])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_its_age_is_a_share_of_any_run(share: float, steps: int) -> None:
    age = 0.0
    for step in range(1, steps + 1):
        age = decay(step, share) * (age + 1)
    assert age / steps == pytest.approx(share, abs=1 / steps)


def test_it_begins_as_the_first_step() -> None:
    model = net()
    average = WeightAverage(model, 0.1)
    walk(model, torch.Generator().manual_seed(1))
    average.update(1)
    for name, value in model.state_dict().items():
        assert torch.equal(average.state_dict()[name], value)


def test_a_skipped_step_leaves_it_as_it_is() -> None:
    model = net()
    one, other = WeightAverage(model, 0.2), WeightAverage(model, 0.2)
    generator = torch.Generator().manual_seed(1)
    for step in range(1, 5):
        walk(model, generator)
        one.update(step)
        other.update(step, torch.tensor(True))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    for name, value in one.state_dict().items():
        assert torch.allclose(before[name], value, atol=1e-6)
    walk(model, generator)
    other.update(5, torch.tensor(False))
    for name, value in other.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, before[name]), name


def test_its_state_goes_on_where_it_was() -> None:
    model, generator = net(), torch.Generator().manual_seed(1)
    whole = WeightAverage(model, 0.1)
    for step in range(1, 4):
        walk(model, generator)
        whole.update(step)
    resumed = WeightAverage(model, 0.1)
    resumed.load_state_dict({name: value.clone() for name, value in whole.state_dict().items()})
    walk(model, generator)
    for average in (whole, resumed):
        average.update(4)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])
