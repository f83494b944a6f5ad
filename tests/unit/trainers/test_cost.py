"""What a config costs, measured before it trains."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from spaces.config import SegmentationConfig
from spaces.limits import Cost, LimitsSpec, Probe
from spaces.text_detection import TextDetectionConfig
from trainers import cost as cost_module
from trainers.cost import count_parameters, measure_cost, measure_latency
from trainers.data import SegmentationData
from trainers.models import build_model
from trainers.text_detection import build_dbnet

pytestmark = pytest.mark.usefixtures("one_thread")


def small(**changes: Any) -> SegmentationConfig:
    settings = {
        "model.encoder": "mobilenet_v2",
        "model.encoder_weights": None,
        "data.resolution": "64x64",
        "train.precision": "fp32",
    }
    return SegmentationConfig().replace({**settings, **changes})


def test_parameters_are_those_of_the_network(data: SegmentationData) -> None:
    config = small()
    network = build_model(config.model, data.classes)
    assert count_parameters(config, data) == sum(p.numel() for p in network.parameters())


def test_parameters_of_a_text_detector_follow_its_decoder() -> None:
    config = TextDetectionConfig().replace({"model.encoder_weights": None, "model.inner": 32})
    network = build_dbnet(config.model)
    counted = cost_module.parameters_of(config.model, 1, 3)
    assert counted == sum(p.numel() for p in network.parameters())
    wider = config.replace({"model.inner": 64})
    assert cost_module.parameters_of(wider.model, 1, 3) > counted


@pytest.mark.parametrize("mode", ["resize", "crop"])
def test_a_larger_image_takes_longer(mode: str, data: SegmentationData) -> None:
    config = small(**{"data.mode": mode})
    size = {"data.resolution": "192x192"} if mode == "resize" else {"data.scale": 4.0}
    few, many = (measure_latency(one, data) for one in (config, config.replace(size)))
    assert few is not None and many is not None and 0 < few < many


def test_what_is_known_is_not_measured_again(
    data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_module, "measure_latency", lambda config, data: 33.0)
    probe = Probe(LimitsSpec(latency_ms=20), Cost(5, 11.0))
    assert measure_cost(small(), data, probe) == Cost(5, 11.0)
    fresh = measure_cost(small(), data, replace(probe, known=Cost(5)))
    assert fresh == Cost(5, 33.0) and probe.limits.outside(fresh) is not None


def test_what_has_too_many_parameters_is_not_timed(
    data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: Any) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(cost_module, "measure_latency", never)
    found = measure_cost(small(), data, Probe(LimitsSpec(parameters=1000)))
    assert found.latency_ms is None and (found.parameters or 0) > 1000


def test_out_of_memory_leaves_the_latency_unknown(
    data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(cost_module, "network_logits", full)
    assert measure_latency(small(), data) is None
