"""An exported detector beside an offline OCR engine's, on the same images with the same score.

    pip install --no-deps rapidocr-onnxruntime==1.4.4 && pip install onnxruntime six tqdm
    python -m benchmarks.text_detection FOLDER [--to benchmarks/text_detection.md]

The engine (PP-OCRv4 detection) was trained by its makers on other data, ours on the train split.
Time is for an image already in memory: resizing, network, boxes. Both use all cores.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from benchmarks.report import heading, parser, publish, spread, table
from benchmarks.text import load_export
from trainers.dbnet.decode import Candidates
from trainers.dbnet.score import Scores, sweep
from trainers.text_detection import PageOutput

Row = tuple[str, Scores, list[float]]


def main() -> None:
    """Print the table, and write it where asked."""
    command = parser(__doc__ or "")
    command.add_argument("folder", type=Path, help="an exported text detector")
    given = command.parse_args()
    publish(report([ours(given.folder), peer(given.folder)]), given.to)


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
        [
            name,
            f"{scores.hmean:.4f}",
            f"{scores.precision:.4f}",
            f"{scores.recall:.4f}",
            spread(seconds),
        ]
        for name, scores, seconds in rows
    ]
    columns = ["detector", "Hmean", "precision", "recall", "s an image (median, range)"]
    return f"""\
{heading("Text detection beside an offline peer", "text_detection FOLDER", gpu=True)}
SROIE val images, ICDAR score in image coordinates. FOLDER is what `python -m benchmarks.sroie --to
FOLDER` wrote.

{table(columns, lines)}
"""


if __name__ == "__main__":
    main()
