"""Boxes of text on pages by a model.onnx of text detection: without torch, without segtune.

    pip install onnxruntime numpy pillow opencv-python-headless
    python onnx_boxes.py best/model/model.onnx out/ first.jpg second.png

A line `x1,y1,x2,y2,x3,y3,x4,y4` a box, in pixels of the image, as from `segtune predict`.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def boxes_of(session, facts, image):
    """RGB (H, W, 3) uint8 -> boxes (M, 4, 2), x before y."""
    decode = facts["decode"]
    ratio = facts["data"]["resolution"] / max(image.shape[:2])
    height, width = (max(1, round(length * ratio)) for length in image.shape[:2])
    padded = [side + -side % 32 for side in (height, width)]
    page = np.zeros((1, *padded, 3), np.uint8)  # black below and to the right
    how = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
    page[0, :height, :width] = cv2.resize(image, (width, height), interpolation=how)
    [logits] = session.run(None, {"images": page})  # (1, 1, *padded)
    found = 1 / (1 + np.exp(-logits[0, 0, :height, :width]))
    binary = (found > decode["thresh"]).astype(np.uint8)
    contours, levels = cv2.findContours(binary, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outer = [one for index, one in enumerate(contours) if levels[0][index][3] < 0]
    rects = [rect for rect in map(cv2.minAreaRect, outer) if min(rect[1]) >= 3]
    largest = sorted(range(len(rects)), key=lambda i: -rects[i][1][0] * rects[i][1][1])
    boxes = []
    for index in sorted(largest[: decode["max_candidates"]]):
        centre, (w, h), angle = rects[index]
        inside = np.zeros(found.shape, np.uint8)
        cv2.fillPoly(inside, [np.rint(cv2.boxPoints(rects[index])).astype(int)], 1)
        out = w * h * decode["unclip_ratio"] / (w + h)  # area x ratio / perimeter, on both sides
        if cv2.mean(found, inside)[0] >= decode["box_thresh"] and min(w, h) + out >= 5:
            box = np.rint(cv2.boxPoints((centre, (w + out, h + out), angle)))
            boxes.append(box * (image.shape[1] / width, image.shape[0] / height))
    return np.clip(np.reshape(boxes, (-1, 4, 2)), 0, image.shape[1::-1])


def main(model, to, *paths):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["segtune"])
    plain = {"tta": "none", "output": "quad", "channels": 3, "range": None}
    settings = plain | facts.get("images", {}) | facts["decode"]
    if more := [f"{name} {settings[name]}" for name in plain if settings[name] != plain[name]]:
        sys.exit(
            f"{', '.join(more)}: segtune predict --runtime onnx does that, this script does not"
        )
    Path(to).mkdir(parents=True, exist_ok=True)
    for path in paths:
        page = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
        white = Image.new("RGBA", page.size, "white")
        image = np.asarray(Image.alpha_composite(white, page).convert("RGB"))
        corners = np.rint(boxes_of(session, facts, image)).astype(int).reshape(-1, 8)
        lines = "".join(",".join(map(str, box)) + "\n" for box in corners.tolist())
        Path(to, f"{Path(path).stem}.txt").write_text(lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
