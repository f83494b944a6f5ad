"""Wherever GPU memory runs out, the trial takes less or ends as `oom`; it never crashes.

On a GPU that computes nothing, whose allocator is the real one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spaces.limits import Cost, LimitsSpec, Probe
from spaces.paths import MODEL
from spaces.run_config import dump_run_config
from tests.gpu.nop.conftest import Nop
from tests.gpu.nop.runs import blobs, receipts, run, small, small_text
from trainers import checkpoint, predict, samples, segmentation, text_detection
from trainers import train as loop
from trainers.cost import measure_cost
from trainers.predict import Predictor
from trainers.samples import Loaded, Resident
from trainers.train import probe_memory

ALLOCATOR = torch.OutOfMemoryError("CUDA out of memory (injected)")
CUDNN = RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
RUNTIME = torch.AcceleratorError("CUDA error: out of memory")


def _failing(function: Callable[..., Any], calls: Any, error: Exception) -> Callable[..., Any]:
    """The function, which raises an error in these calls (from 1)."""
    count = 0

    def call(*given: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count in calls:
            raise error
        return function(*given, **named)

    return call


ALWAYS = range(1, 10**6)


def _places() -> dict[str, tuple[object, str, Mapping[str, Any]]]:
    """{where: (what has it, its name, changes of the config)}."""
    adam = torch.optim.AdamW
    text, crop = {"text": True}, {"data.mode": "crop"}
    return {
        "network to the device": (torch.nn.Module, "to", {}),
        "average of the weights": (loop, "WeightAverage", {"train.ema": 0.1}),
        "resident upload": (samples, "Resident", {}),
        "batch from a loader": (Loaded, "batches", {"loaded": True}),
        "augmentation": (segmentation, "augment", {}),
        "normalisation": (segmentation, "normalise", {}),
        "forward": (segmentation, "forward", {}),
        "training loss": (segmentation.SegmentationLoss, "terms", {}),
        "backward": (torch.Tensor, "backward", {}),
        "unscaling": (torch.amp.GradScaler, "unscale_", {}),
        "clipping": (torch.nn.utils, "clip_grad_norm_", {}),
        "optimiser": (adam, "step", {}),
        "validation forward": (segmentation, "network_logits", {}),
        "scoring": (segmentation, "at_original_size", {}),
        "resident images": (samples, "ResidentImages", crop),
        "scoring of windows": (segmentation, "windows_logits", crop),
        "checkpoint": (checkpoint, "save_state", {}),
        "text forward": (text_detection.TextDetectionTask, "run", text),
        "text loss": (text_detection.TextDetectionLoss, "terms", text),
        "text batch": (text_detection, "normalise", text),
        "text validation": (text_detection.TextDetectionTask, "outputs", text),
    }


def _at(place: str, calls: Any, error: Exception) -> str:
    owner, name, changes = _places()[place]
    changes = {"train.epochs": 1, **changes}
    is_text, loaded = changes.pop("text", False), changes.pop("loaded", False)
    config = (small_text if is_text else small)(**changes)
    if loaded:
        samples.DEVICE_SHARE = 0.0
    original, share = getattr(owner, name), 0.25
    setattr(owner, name, _failing(original, calls, error))
    try:
        return run(config).reason
    except Exception as raised:
        return f"crashed: {type(raised).__name__}: {raised}"
    finally:
        setattr(owner, name, original)
        samples.DEVICE_SHARE = share


ONCE_ENDS = ("unscaling", "clipping", "optimiser", "checkpoint", "average of the weights")


def _everywhere() -> dict[str, tuple[str, str]]:
    """{place: (reason where memory runs out there once, where it does each time)}."""
    return {
        place: (
            "oom" if place in ONCE_ENDS else _at(place, range(2, 3), ALLOCATOR),
            _at(place, ALWAYS, ALLOCATOR),
        )
        for place in _places()
    }


def test_out_of_memory_at_every_place_goes_on_or_is_oom(nop: Nop) -> None:
    found = nop(_everywhere)
    assert len(found) == 21
    each = {place: reason for place, (_, reason) in found.items()}
    # data that cannot stay on the device are carried there batch by batch
    assert each == dict.fromkeys(found, "oom") | {
        "resident upload": "completed",
        "resident images": "completed",
    }
    once = {place for place, (reason, _) in found.items() if reason != "completed"}
    assert once == {*ONCE_ENDS, "network to the device"}  # where nothing smaller is to be had


def _errors() -> list[str]:
    return [_at("forward", range(2, 3), error) for error in (CUDNN, CUBLAS, RUNTIME)] + [
        _at("forward", range(2, 3), RuntimeError("CUDA error: an illegal memory access"))[:21]
    ]


def test_all_four_faces_of_out_of_memory_are_known(nop: Nop) -> None:
    assert nop(_errors) == ["completed"] * 3 + ["crashed: RuntimeError"]


def _predicted() -> dict[str, Any]:
    """{what: what becomes of images where the GPU has room, and where it never has}."""
    short = {"train.epochs": 1}
    return {
        "segmentation": _predicted_by(small(**short), blobs()),
        "windows": _predicted_by(small(**short, **{"data.mode": "crop"}), blobs()),
        "text_detection": _predicted_by(small_text(**short), receipts()),
    }


def _predicted_by(config: Any, data: Any) -> list[Any]:
    name = "network_logits" if config.task == "segmentation" else "page_logits"
    real, image = getattr(predict, name), np.zeros((50, 70, 3), np.uint8)
    batches: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        model = run(config, Path(folder)).model
        assert model is not None
        model.rename(Path(folder) / MODEL)
        (Path(folder) / "config.yaml").write_text(dump_run_config(data.spec, config))
        predictor = Predictor(folder)
    devices = [predictor.device.type]
    first = predictor.predict([image])

    def full(model: Any, pixels: Any, config: Any, device: Any, *more: Any) -> Any:
        if device.type == "cuda":
            batches.append(predictor.batch)
            raise ALLOCATOR
        return real(model, pixels, config, device, *more)

    setattr(predict, name, full)
    second = predictor.predict([image] * 8)
    setattr(predict, name, real)
    devices.append(predictor.device.type)
    return [devices, batches, len(second), sorted({type(one).__name__ for one in first + second})]


def test_predictions_take_less_and_then_the_cpu(nop: Nop) -> None:
    devices = ["cuda", "cpu"]
    assert nop(_predicted) == {
        # the last try on the GPU resizes one class at a time
        "segmentation": [devices, [8, 4, 2, 1, 1], 8, ["ndarray"]],
        "windows": [devices, [8, 4, 2, 1, 1], 8, ["ndarray"]],
        "text_detection": [devices, [1, 1], 8, ["Detections"]],
    }


def _limited() -> list[tuple[int, str, int]]:
    """(MiB, reason, micro-batch) as there is less and less memory, and then more again."""
    found = []
    total = torch.cuda.get_device_properties(0).total_memory / 2**20
    for mib in (2000, 500, 350, 300, 250, 200, 150, 100, 70, 40, 20, 2000):
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(mib / total)
        config = small(**{"data.resolution": "256x256", "train.batch_size": 4, "train.epochs": 1})
        result = run(config)
        found.append((mib, result.reason, result.hardware["micro_batch"]))
    return found


def test_the_less_memory_there_is_the_smaller_the_micro_batch(nop: Nop) -> None:
    """Real errors of the real allocator, wherever they happen; nothing is kept for later trials."""
    found = nop(_limited, PYTORCH_NO_CUDA_MEMORY_CACHING="0")
    assert {reason for _, reason, _ in found} == {"completed", "oom"}, found
    sizes = [size for _, reason, size in found[:-1] if reason == "completed"]
    assert sizes[0] == 4 and sizes[-1] < 4 and sizes == sorted(sizes, reverse=True)
    assert found[-1] == (2000, "completed", 4)


def _stays() -> bool:
    return isinstance(
        samples.open_samples(blobs(), "train", small().data, small().train, torch.device("cuda")),
        Resident,
    )


def test_workers_of_one_card_share_what_resident_data_may_fill(nop: Nop) -> None:
    """4 images of 64x64x4 bytes are 64 KiB of a card of 1 MiB; a quarter of it is for data."""
    assert nop(_stays, NOPGPU_MIB="1")
    assert nop(_stays, NOPGPU_MIB="1", SEGTUNE_WORKERS_PER_GPU="3")
    assert not nop(_stays, NOPGPU_MIB="1", SEGTUNE_WORKERS_PER_GPU="5")


def _probed(mib: int) -> tuple[float, int] | None:
    total = torch.cuda.get_device_properties(0).total_memory / 2**20
    torch.cuda.set_per_process_memory_fraction(mib / total)
    return probe_memory(small(**{"data.resolution": "256x256", "train.batch_size": 4}), blobs())


def test_the_probe_says_what_fits_or_that_nothing_does(nop: Nop) -> None:
    fits = nop(_probed, 2000, PYTORCH_NO_CUDA_MEMORY_CACHING="0")
    assert fits is not None and fits[0] > 50 and fits[1] == 4
    assert nop(_probed, 20, PYTORCH_NO_CUDA_MEMORY_CACHING="0") is None


def _costs() -> tuple[Cost, Cost, int]:
    """Of batches of 2 and of 4; and bytes that stay on the device."""
    probe = Probe(LimitsSpec(memory_mb=1e6))
    few, many = (
        measure_cost(
            small(**{"train.batch_size": batch, "data.resolution": "128x128"}), blobs(), probe
        )
        for batch in (2, 4)
    )
    return few, many, torch.cuda.memory_allocated()


def test_a_cost_is_measured_before_training(nop: Nop) -> None:
    """Memory of the whole batch; nothing of it stays held."""
    few, many, held = nop(_costs, PYTORCH_NO_CUDA_MEMORY_CACHING="0")
    assert few.parameters == many.parameters and few.latency_ms > 0
    assert 20 < few.memory_mb < many.memory_mb < 1000
    assert LimitsSpec(memory_mb=few.memory_mb).outside(many) is not None
    assert held < 2**20
