"""What a config costs, measured before it trains: parameters, latency, memory.

Parameters are counted without a device. Latency and memory are measured where the trial will train,
in the trial's own process, on a network without pretrained weights, which is thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from statistics import median

import torch
from torch import nn

from spaces.config import SegmentationConfig, TrialConfig
from spaces.errors import InputError
from spaces.limits import Cost, Probe
from spaces.space import Space
from spaces.text_detection import TextDetectionConfig, TextModelConfig
from trainers.batches import layout
from trainers.cache import resize_image
from trainers.data import SegmentationData
from trainers.devices import pick_device, set_up
from trainers.images import decode_image
from trainers.initial_weights import AnyModelConfig
from trainers.memory import free_memory
from trainers.models import build_model
from trainers.precision import resolve_precision
from trainers.segmentation import VAL_BATCH, network_logits, windows_logits
from trainers.speed import NO_WEIGHTS
from trainers.tasks import Data
from trainers.text_data import TextData
from trainers.text_detection import build_dbnet, page_logits
from trainers.text_sizes import network_size
from trainers.train import TrialResult, or_oom, probe_memory

WARM_UP, RUNS = 2, 15  # forwards
SECONDS = 1.0  # of timed forwards, after which no further one begins
FEWEST = 3  # timed forwards, however long they take


def measure_cost(config: TrialConfig, data: Data, probe: Probe) -> Cost:
    """Measure what is not known of a config's cost, on the device that it will train on.

    Memory is measured where there is a limit of it, on a GPU alone; None where it ran out with one
    image at a time, which the trial will meet too.

    Raises:
        InputError: the network cannot be built.
    """
    one = data.folds[0] if data.folds else data
    known, limits = probe.known, probe.limits
    parameters, latency = known.parameters, known.latency_ms
    if parameters is None:
        parameters = count_parameters(config, one)
    found = Cost(parameters, latency, known.memory_mb)
    if limits.outside(found) is not None:  # what costs time is not asked any more
        return found
    if latency is None:
        latency = measure_latency(config, one)
        found = Cost(parameters, latency, known.memory_mb)
    wanted = limits.memory_mb is not None and known.memory_mb is None
    if wanted and limits.outside(found) is None and pick_device().type == "cuda":
        peak = probe_memory(config.replace({**NO_WEIGHTS, "train.compile": False}), one)
        free_memory()
        found = Cost(parameters, latency, None if peak is None else round(peak[0], 1))
    return found


def untrained(cost: Cost, hardware: dict[str, str]) -> TrialResult:
    """The result of a config that is outside of the limits: no epoch, no value."""
    parameters = cost.parameters
    return TrialResult(
        "limit", None, None, {}, None, [], dict(hardware), parameters=parameters, cost=cost
    )


def networks_of(space: Space, data: Data) -> list[tuple[str, int]]:
    """(name, parameters) of every network that a space can draw, the smallest first.

    Where the channels of a DBNet's decoder are searched, it has the fewest.
    """
    base, found = space.base, {}
    if space.has_archs:
        for arch, encoder in space.model_pairs():
            config = base.replace({"model.arch": arch, "model.encoder": encoder})
            found[f"{arch}/{encoder}"] = count_parameters(config, data)
    else:
        fewest = {name: min(space.values(name)) for name in ("model.inner", "model.out")}
        for encoder in space.names("model.encoder"):
            for decoder in space.names("model.decoder"):
                names = {"model.encoder": encoder, "model.decoder": decoder}
                config = base.replace({**names, **fewest})
                found[f"DBNet/{encoder}/{decoder}"] = count_parameters(config, data)
    return sorted(found.items(), key=lambda one: one[1])


def count_parameters(config: TrialConfig, data: Data) -> int:
    """Count the parameters of a config's network, which is not put into memory.

    Raises:
        InputError: the network cannot be built.
    """
    one = data.folds[0] if data.folds else data
    return parameters_of(_network_of(config), *_shape_of(one))


def measure_latency(config: TrialConfig, data: Data) -> float | None:
    """Milliseconds from a val image that is read and resized to the logits, one image at a time.

    The median of several forwards after a warm-up: eval mode, the trial's precision and
    `decode.tta`, not compiled, as `Predictor` runs it. Of segmentation with `data.mode: crop` all
    windows of the first val image; of text a page of the median size of val.

    Returns:
        None where memory runs out.
    """
    device = pick_device()
    precision = resolve_precision(config.train.precision, device)
    set_up(device, precision, fixed_shapes=False)
    network = _build(_network_of(config), *_shape_of(data)).eval()

    def measured() -> float:
        there = network.to(device).to(memory_format=layout(config.train))
        return round(_timed(_forward(there, config, data, device, precision), device), 3)

    found = or_oom(measured)
    network.to("meta")  # whoever still holds it
    free_memory()
    return None if isinstance(found, str) else found


def _timed(forward: Callable[[], None], device: torch.device) -> float:
    """Milliseconds: the median of several calls."""

    def once() -> float:
        began = time.perf_counter()
        forward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1000 * (time.perf_counter() - began)

    with torch.no_grad():
        for _ in range(WARM_UP):
            once()
        began, found = time.perf_counter(), list[float]()
        while len(found) < RUNS:
            if len(found) >= FEWEST and time.perf_counter() - began > SECONDS:
                break
            found.append(once())
    return median(found)


def _forward(
    network: nn.Module, config: TrialConfig, data: Data, device: torch.device, precision: str
) -> Callable[[], None]:
    """Run the network on one image of val's size, whose pixels do not matter."""
    channels = _shape_of(data)[1]
    if isinstance(config, TextDetectionConfig):
        assert isinstance(data, TextData)
        sizes = [network_size(data, page, config.data.resolution) for page in data.split("val")]
        height, width = sorted(sizes, key=lambda size: size[0] * size[1])[len(sizes) // 2]
        page = torch.zeros(height, width, channels, dtype=torch.uint8).numpy()
        text = config
        return lambda: _void(page_logits(network, page, text, device, precision))
    assert isinstance(config, SegmentationConfig) and isinstance(data, SegmentationData)
    masks = config
    if config.data.mode == "resize":
        image = torch.zeros(1, channels, *config.data.size, dtype=torch.uint8)
        return lambda: _void(network_logits(network, image, masks, device, precision))
    pixels = decode_image(data.split("val")[0].image, data.spec)
    scaled = torch.from_numpy(resize_image(pixels, config.data.sized))
    size = pixels.shape[0], pixels.shape[1]

    def run(windows: torch.Tensor, places: object) -> torch.Tensor:
        return network_logits(network, windows, masks, device, precision)

    return lambda: _void(list(windows_logits(scaled, size, masks, run, VAL_BATCH)))


def _void(found: object) -> None:
    """Drop what was computed."""


def _network_of(config: TrialConfig) -> AnyModelConfig:
    """Which network a config has, without the weights that it begins with."""
    assert isinstance(config, SegmentationConfig | TextDetectionConfig)
    return config.model.model_copy(update={"init": None, "encoder_weights": None})


def _shape_of(data: Data) -> tuple[int, int]:
    """(logits of a segmentation network, channels of an image)."""
    if isinstance(data, TextData):
        return 1, data.spec.channels
    assert isinstance(data, SegmentationData)
    return (1 if data.spec.binary else data.classes), data.spec.channels


@lru_cache(maxsize=4096)
def parameters_of(network: AnyModelConfig, logits: int, channels: int) -> int:
    """Count the parameters of a network with so many output channels (segmentation) and input
    channels."""
    try:
        with torch.device("meta"):
            model = _build(network, logits, channels)
    except InputError:  # an encoder that computes with its weights where it is built
        model = _build(network, logits, channels)
    return sum(weights.numel() for weights in model.parameters())


def _build(network: AnyModelConfig, logits: int, channels: int) -> nn.Module:
    if isinstance(network, TextModelConfig):
        return build_dbnet(network, channels=channels)
    return build_model(network, logits, channels=channels)
