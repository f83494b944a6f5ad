"""An exported detector beside an offline OCR engine's, on the same images with the same score.

    pip install --no-deps rapidocr-onnxruntime==1.4.4 && pip install onnxruntime six tqdm
    python -m benchmarks.text_detection FOLDER [--to benchmarks/text_detection.md]

The engine (PP-OCRv4 detection) was trained by its makers on other data, ours on the train split.
Time is for an image already in memory: resizing, network, boxes. Both use all cores.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import time
from pathlib import Path

import numpy as np

from benchmarks.text import device_line, load_export
from trainers.dbnet.decode import Candidates
from trainers.dbnet.score import Scores, sweep
from trainers.text_detection import PageOutput

Row = tuple[str, Scores, list[float]]


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="an exported text detector")
    parser.add_argument("--to", type=Path, help="also write the table to this file")
    given = parser.parse_args()
    rows = [ours(given.folder), peer(given.folder)]
    text = report(rows)
    print(text)
    if given.to is not None:
        given.to.write_text(text)


def ours(folder: Path) -> Row:
    """Our detector at its exported settings."""
    import torch

    task, model, data = load_export(folder)
    decode = task.config.decode
    found, seconds = [], []
    for page in data.split("val"):
        image, truth = data.image(page), data.truth(page)
        began = time.perf_counter()
        with torch.no_grad():
            logits, (height, width), scale = task.logits(model, image)
        probability = logits[0, 0, :height, :width].sigmoid().cpu().numpy()
        size = (image.shape[0], image.shape[1])
        output = PageOutput(page, truth, size, scale, probability)
        boxes = task.found(output, [decode.unclip_ratio], decode.thresh)
        seconds.append(time.perf_counter() - began)
        found.append((boxes, truth))
    name = f"segtune: {task.config.model.encoder} + {task.config.model.decoder} from scratch"
    name += f", {task.config.data.resolution} px, box_thresh {decode.box_thresh:g}"
    return name, sweep(found, [decode.box_thresh]).at(0, 0), seconds


def peer(folder: Path) -> Row:
    """The engine's detector at its own settings."""
    from rapidocr_onnxruntime import RapidOCR

    _, _, data = load_export(folder)
    engine = RapidOCR()
    found, seconds = [], []
    for page in data.split("val"):
        image = np.ascontiguousarray(data.image(page)[..., ::-1])  # BGR
        began = time.perf_counter()
        result, _ = engine(image, use_det=True, use_cls=False, use_rec=False)
        seconds.append(time.perf_counter() - began)
        boxes = np.array(result or [], np.float64).reshape(1, -1, 4, 2)
        count = boxes.shape[1]
        found.append(
            (
                Candidates(np.ones(count), boxes, np.ones((1, count), bool), (1.0,), False),
                data.truth(page),
            )
        )
    return "rapidocr-onnxruntime 1.4.4 (PP-OCRv4)", sweep(found, [0.0]).at(0, 0), seconds


def report(rows: list[Row]) -> str:
    """The table as Markdown."""
    lines = [
        "# Text detection beside an offline peer",
        "",
        f"SROIE val images, ICDAR score in image coordinates. {device_line()}, "
        f"{datetime.date.today().isoformat()}. Measured by",
        "`python -m benchmarks.text_detection FOLDER`, where FOLDER is what "
        "`python -m benchmarks.sroie --to FOLDER` wrote.",
        "",
        "| detector | Hmean | precision | recall | s an image (median) |",
        "|---|---|---|---|---|",
    ]
    for name, scores, seconds in rows:
        lines.append(
            f"| {name} | {scores.hmean:.4f} | {scores.precision:.4f} | {scores.recall:.4f} | "
            f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
