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

from benchmarks.detector import load_export
from benchmarks.report import heading, parser, publish, spread, table
from spaces.text_detection import TextDetectionConfig
from trainers.dbnet.decode import Candidates, Detections
from trainers.dbnet.score import Scores, sweep

Row = tuple[str, Scores, list[float]]


def main() -> None:
    """Print the table, and write it where asked."""
    command = parser(__doc__ or "")
    command.add_argument("folder", type=Path, help="an exported text detector")
    given = command.parse_args()
    publish(report([ours(given.folder), peer(given.folder)]), given.to)


def ours(folder: Path) -> Row:
    """Our detector at its exported settings."""
    from trainers.predict import Predictor

    _, _, data = load_export(folder)
    predictor = Predictor(folder)
    found, seconds = [], []
    for page in data.split("val"):
        image = data.image(page)
        began = time.perf_counter()
        (boxes,) = predictor.predict([image])
        seconds.append(time.perf_counter() - began)
        assert isinstance(boxes, Detections)
        found.append((_candidates(boxes), data.truth(page)))
    config = predictor.config
    assert isinstance(config, TextDetectionConfig)
    name = f"segtune: {config.model.encoder} + {config.model.decoder} from scratch"
    name += f", {config.data.resolution} px, box_thresh {config.decode.box_thresh:g}"
    return name, sweep(found, [0.0]).at(0, 0), seconds


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
        boxes = np.array(result or [], np.float64).reshape(-1, 4, 2)
        found.append((_candidates(Detections(boxes, np.ones(len(boxes)))), data.truth(page)))
    return "rapidocr-onnxruntime 1.4.4 (PP-OCRv4)", sweep(found, [0.0]).at(0, 0), seconds


def _candidates(found: Detections) -> Candidates:
    """Boxes that were chosen already, as the score takes them."""
    kept = np.ones((1, len(found.boxes)), bool)
    return Candidates(found.scores, found.boxes[None], kept, (1.0,), False, np.arange(len(kept[0])))


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
