"""A seeded, drawn data set of streets, for the demo: small, but with the imbalance of real ones."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLASSES = ("sky", "building", "road", "pavement", "tree", "car", "pole", "person")
VOID = 255

_COLOURS = {
    "sky": (150, 185, 220),
    "building": (130, 110, 100),
    "road": (95, 92, 98),
    "pavement": (160, 150, 145),
    "tree": (70, 105, 60),
    "car": (120, 40, 45),
    "pole": (120, 120, 115),
    "person": (60, 55, 85),
}


def write_streets(
    folder: Path,
    *,
    train: int = 96,
    val: int = 32,
    size: tuple[int, int] = (120, 160),
    seed: int = 0,
) -> Path:
    """Write {train,val}/{images,masks}/*.png and classes.json; return the folder.

    Args:
        size: (height, width) of the images in pixels.
        seed: equal seeds give equal files.
    """
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image, mask = draw_street(random.Random(f"{seed}/{split}/{index}"), size)
            image.save(folder / split / "images" / f"street_{index:04d}.png")
            mask.save(folder / split / "masks" / f"street_{index:04d}.png")
    (folder / "classes.json").write_text(
        json.dumps({"classes": list(CLASSES), "ignore_index": VOID}, indent=1) + "\n"
    )
    return folder


def draw_street(rng: random.Random, size: tuple[int, int]) -> tuple[Image.Image, Image.Image]:
    """Draw one scene; returns (RGB image, mask of class indices with a void border)."""
    height, width = size
    scene = _Scene(rng, height, width)
    horizon = round(height * rng.uniform(0.38, 0.52))
    scene.polygon("sky", [(0, 0), (width, 0), (width, height), (0, height)])
    _buildings(scene, horizon)
    vanish = width * rng.uniform(0.35, 0.65)
    ground = [(0, horizon), (width, horizon), (width, height), (0, height)]
    scene.polygon("pavement", ground)
    road = width * rng.uniform(0.30, 0.45)
    scene.polygon(
        "road",
        [
            (vanish - width * 0.05, horizon),
            (vanish + width * 0.05, horizon),
            (width / 2 + road * 1.3, height),
            (width / 2 - road * 1.3, height),
        ],
    )
    for _ in range(rng.randint(0, 3)):
        _tree(scene, horizon)
    for _ in range(rng.randint(0, 3)):
        _car(scene, horizon)
    for _ in range(rng.randint(1, 3)):
        x = rng.uniform(0.03, 0.97) * width
        top = horizon - height * rng.uniform(0.15, 0.35)
        thick = max(1.5, width * 0.012)
        scene.polygon(
            "pole",
            [(x, top), (x + thick, top), (x + thick, height * 0.75), (x, height * 0.75)],
        )
    for _ in range(rng.randint(0, 2)):
        _person(scene, horizon)
    return scene.finish()


class _Scene:
    """An image and its mask, painted together."""

    def __init__(self, rng: random.Random, height: int, width: int) -> None:
        self.rng = rng
        self.height, self.width = height, width
        self.image = Image.new("RGB", (width, height))
        self.mask = Image.new("L", (width, height), VOID)
        self._image, self._mask = ImageDraw.Draw(self.image), ImageDraw.Draw(self.mask)

    def polygon(self, name: str, points: Sequence[tuple[float, float]]) -> None:
        self._image.polygon(points, fill=self._shade(name))
        self._mask.polygon(points, fill=CLASSES.index(name))

    def ellipse(self, name: str, box: tuple[float, float, float, float]) -> None:
        self._image.ellipse(box, fill=self._shade(name))
        self._mask.ellipse(box, fill=CLASSES.index(name))

    def finish(self) -> tuple[Image.Image, Image.Image]:
        """Light, blur and noise on the image; a thin void frame on the mask."""
        noise = np.random.default_rng(self.rng.getrandbits(32))
        soft = np.asarray(self.image.filter(ImageFilter.GaussianBlur(0.7)), dtype=np.float32)
        light = self.rng.uniform(0.75, 1.2)
        grain = noise.normal(0, 12, soft.shape)
        pixels = (soft * light + grain).clip(0, 255).astype(np.uint8)
        frame = ImageDraw.Draw(self.mask)
        frame.rectangle((0, 0, self.width - 1, self.height - 1), outline=VOID)
        return Image.fromarray(pixels), self.mask

    def _shade(self, name: str) -> tuple[int, ...]:
        spread = 45 if name in ("car", "building", "person") else 18
        return tuple(
            max(0, min(255, channel + self.rng.randint(-spread, spread)))
            for channel in _COLOURS[name]
        )


def _buildings(scene: _Scene, horizon: int) -> None:
    x = 0.0
    while x < scene.width:
        wide = scene.width * scene.rng.uniform(0.12, 0.3)
        if scene.rng.random() < 0.85:
            top = horizon * scene.rng.uniform(0.1, 0.75)
            right = x + wide
            scene.polygon("building", [(x, top), (right, top), (right, horizon), (x, horizon)])
        x += wide


def _tree(scene: _Scene, horizon: int) -> None:
    x = scene.rng.uniform(0, 1) * scene.width
    radius = scene.height * scene.rng.uniform(0.08, 0.18)
    scene.ellipse("tree", (x - radius, horizon - 2 * radius, x + radius, horizon))


def _car(scene: _Scene, horizon: int) -> None:
    depth = scene.rng.uniform(0.15, 0.8)
    bottom = horizon + (scene.height - horizon) * depth
    wide = scene.width * (0.06 + 0.18 * depth)
    high = wide * 0.5
    x = scene.rng.uniform(0.15, 0.75) * scene.width
    scene.polygon(
        "car",
        [
            (x, bottom),
            (x, bottom - high * 0.55),
            (x + wide * 0.2, bottom - high),
            (x + wide * 0.8, bottom - high),
            (x + wide, bottom - high * 0.55),
            (x + wide, bottom),
        ],
    )


def _person(scene: _Scene, horizon: int) -> None:
    depth = scene.rng.uniform(0.2, 0.7)
    bottom = horizon + (scene.height - horizon) * depth
    high = scene.height * (0.08 + 0.16 * depth)
    x = scene.rng.uniform(0.02, 0.95) * scene.width
    half = high * 0.14
    scene.ellipse("person", (x - half, bottom - high, x + half, bottom - high * 0.75))
    scene.polygon(
        "person",
        [
            (x - half, bottom),
            (x - half * 1.2, bottom - high * 0.78),
            (x + half * 1.2, bottom - high * 0.78),
            (x + half, bottom),
        ],
    )
