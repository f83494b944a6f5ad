"""Masks of images by a model.onnx of segmentation: without torch, without segtune.

    pip install onnxruntime numpy pillow opencv-python-headless
    python onnx_masks.py best/model/model.onnx out/ first.jpg second.png

A mask has the index of each pixel's class, at the image's own size, as from `segtune predict`.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def load(path):
    """The network, and what the file says of its classes and decode settings."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["segtune"])
    plain = {"mode": "resize", "tta": "none", "smallest_area": {}, "fill_holes": {}}
    plain |= {"channels": 3, "range": None}
    settings = plain | facts.get("images", {}) | facts["data"] | facts["decode"]
    if more := [f"{name} {settings[name]}" for name in plain if settings[name] != plain[name]]:
        sys.exit(
            f"{', '.join(more)}: segtune predict --runtime onnx does that, this script does not"
        )
    return session, facts


def mask_of(session, facts, image):
    """RGB (H, W, 3) uint8 -> class indices (H, W) uint8."""
    height, width = session.get_inputs()[0].shape[1:3]
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    [logits] = session.run(None, {"images": np.asarray(resized)[None]})  # (1, C, height, width)
    size = (image.shape[1], image.shape[0])
    maps = [cv2.resize(one, size, interpolation=cv2.INTER_LINEAR) for one in logits[0]]
    if len(maps) == 1:  # a binary task
        return (1 / (1 + np.exp(-maps[0])) >= facts["decode"]["threshold"]).astype(np.uint8)
    return np.argmax(maps, axis=0).astype(np.uint8)


def main(model, to, *paths):
    session, facts = load(model)
    print("classes:", ", ".join(facts["classes"]))
    Path(to).mkdir(parents=True, exist_ok=True)
    for path in paths:
        image = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        mask = mask_of(session, facts, image)
        Image.fromarray(mask).save(Path(to, f"{Path(path).stem}.png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
