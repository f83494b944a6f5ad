"""What the text-detection benchmarks share: an exported detector and its probability maps."""

from __future__ import annotations

from pathlib import Path

from spaces.run_config import load_run_config
from spaces.text_detection import TextDetectionConfig
from trainers.dbnet.head import DBNet
from trainers.devices import pick_device
from trainers.precision import resolve_precision
from trainers.tasks import load_data
from trainers.text_data import TextData
from trainers.text_detection import TextDetectionTask


def load_export(folder: Path) -> tuple[TextDetectionTask, DBNet, TextData]:
    """Return the task, the network and the data of an exported text detector."""
    spec, config = load_run_config(folder / "config.yaml")
    assert isinstance(config, TextDetectionConfig), f"{folder} is no text detector"
    data = load_data(spec)
    assert isinstance(data, TextData)
    device = pick_device()
    precision = resolve_precision(config.train.precision, device)
    task = TextDetectionTask(config, data, device, precision, free={})
    model = DBNet.from_pretrained(folder / "model").to(device)
    return task, model.to(memory_format=task.memory_format), data
