"""What a second worker on the same data costs: no decoding, and no memory for the cache."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from search.samples.streets import CLASSES, write_streets
from spaces.data import SegmentationDataSpec

pytestmark = pytest.mark.slow

WORKER = """
import json, sys
from PIL import Image
opened, original = [], Image.open
def count(path, *args, **kwargs):
    opened.append(str(path))
    return original(path, *args, **kwargs)
Image.open = count

import torch
from spaces.config import SegmentationConfig
from spaces.data import SegmentationDataSpec
from trainers.segmentation import SegmentationTask
from trainers.tasks import load_data

data = load_data(SegmentationDataSpec.model_validate_json(sys.argv[1]))
config = SegmentationConfig().replace({"data.resolution": "256x256", "train.batch_size": 8})
task = SegmentationTask(config, data, torch.device("cpu"), "fp32", {})
total = sum(float(images.mean()) for images, _ in task.batches(0))
for batch in task._split("val").batches([list(range(len(data.split("val"))))]):
    total += float(batch.images.float().mean())
    total += sum(int(mask.sum()) for mask in batch.originals)
print(json.dumps({"opened": len(opened), "total": total}), flush=True)
for _ in sys.stdin:  # the files stay mapped until the end of the input
    pass
"""


@pytest.fixture
def spec(tmp_path: Path) -> SegmentationDataSpec:
    folder = write_streets(tmp_path / "streets", train=24, val=8, size=(96, 128))
    splits = {
        split: {"images": f"{folder}/{split}/images", "masks": f"{folder}/{split}/masks"}
        for split in ("train", "val")
    }
    return SegmentationDataSpec.model_validate(
        {**splits, "classes": list(CLASSES), "ignore_index": 255}
    )


def start(spec: SegmentationDataSpec) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """A worker that has gone through both splits and holds them."""
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, spec.model_dump_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    return worker, json.loads(worker.stdout.readline())


def cache_memory(pid: int, home: Path) -> dict[str, int]:
    """Bytes that a process's mappings of cached arrays hold: {Rss, Pss, Anonymous}."""
    sums = {"Rss": 0, "Pss": 0, "Anonymous": 0}
    counted = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counted = f"{home}/cache/arrays/" in line
        elif counted and (name := line.split(":")[0]) in sums:
            sums[name] += int(line.split()[1]) * 1024
    return sums


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_a_second_worker_adds_no_decoding_and_under_a_tenth_of_the_memory(
    spec: SegmentationDataSpec, segtune_home: Path
) -> None:
    """PSS counts a page that n processes map as 1/n of a page in each."""
    first, began = start(spec)
    alone = cache_memory(first.pid, segtune_home)
    second, later = start(spec)
    both = [cache_memory(worker.pid, segtune_home) for worker in (first, second)]
    for worker in (first, second):
        worker.communicate("", timeout=60)
        assert worker.returncode == 0
    images = 2 * (24 + 8)  # images and masks
    assert began["opened"] >= 2 * images  # the preflight, then the cache
    assert later["opened"] == 0 and later["total"] == began["total"]
    assert alone["Pss"] >= 32 * 256 * 256 * 4  # the whole of both splits was mapped
    assert both[1]["Rss"] >= 0.95 * alone["Rss"]  # and by the second one too
    assert sum(memory["Pss"] for memory in both) < 1.1 * alone["Pss"]
    assert sum(memory["Anonymous"] for memory in both) == 0  # no page was copied
