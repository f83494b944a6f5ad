"""A seeded, drawn data set of shop receipts with the boxes of their lines, for the demo."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FONTS = ("DejaVuSans.ttf", "DejaVuSansMono.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf")
SHOPS = ("CORNER SHOP", "GREEN GROCER", "CITY BAKERY", "HARBOUR CAFE", "OLD TOWN BOOKS")
ITEMS = ("Milk 1 l", "Rye bread", "Apples, red", "Coffee beans", "Notebook A5", "Candles", "Tea")
ENDINGS = ("THANK YOU", "PLEASE COME AGAIN", "VAT INCLUDED", "NO REFUND WITHOUT RECEIPT")


def write_receipts(
    folder: Path,
    *,
    train: int = 48,
    val: int = 16,
    size: tuple[int, int] = (480, 300),
    seed: int = 0,
) -> Path:
    """Write {train,val}/images/*.png and {train,val}/labels/gt_*.txt; return the folder.

    Args:
        size: (height, width) of the images in pixels.
        seed: equal seeds give equal files.
    """
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image, lines = draw_receipt(random.Random(f"{seed}/{split}/{index}"), size)
            image.save(folder / split / "images" / f"receipt_{index:04d}.png")
            rows = [",".join([*(str(v) for v in box), text]) for box, text in lines]
            path = folder / split / "labels" / f"gt_receipt_{index:04d}.txt"
            path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def draw_receipt(
    rng: random.Random, size: tuple[int, int]
) -> tuple[Image.Image, list[tuple[list[int], str]]]:
    """Draw one receipt; returns the RGB image and ([x1, y1, .., x4, y4], text) of each line.

    A smudged line is don't-care: its text is `###`.
    """
    height, width = size
    paper = rng.randint(215, 250)
    image = Image.new("L", (width, height), paper)
    draw = ImageDraw.Draw(image)
    lines: list[tuple[list[int], str]] = []
    y = float(rng.randint(8, 24))
    name = rng.choice(FONTS)
    for text, left, big in _content(rng):
        font = _font(name, round(height * (0.056 if big else 0.042) * rng.uniform(0.9, 1.1)))
        x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=font)
        wide, high = x1 - x0, y1 - y0
        if y + high > height - 8 or wide > width - 16:
            continue
        x = {"left": 8, "right": width - 8 - wide, "middle": (width - wide) // 2}[left]
        draw.text((x - x0, y - y0), text, font=font, fill=rng.randint(10, 70))
        box = (math.floor(x), math.floor(y), math.ceil(x + wide), math.ceil(y + high))
        smudged = rng.random() < 0.04
        if smudged:
            _smudge(image, box)
            draw = ImageDraw.Draw(image)
        x_low, y_low, x_high, y_high = box
        corners = [x_low, y_low, x_high, y_low, x_high, y_high, x_low, y_high]
        lines.append((corners, "###" if smudged else text))
        if left != "left":  # an item and its price share a row
            y += high + rng.uniform(0.35, 0.9) * high
    return _photographed(rng, image), lines


def _content(rng: random.Random) -> list[tuple[str, str, bool]]:
    """(text, place, large?) of each line, from the shop's name to the farewell."""
    rows = [(rng.choice(SHOPS), "middle", True)]
    rows.append((f"{rng.randint(1, 99)} Market Street", "middle", False))
    rows.append((f"{rng.randint(1, 28):02d}/{rng.randint(1, 12):02d}/2026", "middle", False))
    total = 0
    for _ in range(rng.randint(4, 9)):
        price = rng.randint(50, 2500)
        total += price
        rows.append((f"{rng.randint(1, 4)} {rng.choice(ITEMS)}", "left", False))
        rows.append((f"{price / 100:.2f}", "right", False))
    rows.append(("TOTAL", "left", True))
    rows.append((f"{total / 100:.2f}", "right", True))
    rows.extend((text, "middle", False) for text in rng.sample(ENDINGS, 2))
    return rows


def _smudge(image: Image.Image, box: tuple[int, int, int, int]) -> None:
    image.paste(image.crop(box).filter(ImageFilter.GaussianBlur(4)), box)


def _photographed(rng: random.Random, image: Image.Image) -> Image.Image:
    """Uneven light, blur, grain."""
    width, height = image.size
    soft = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.7)))
    pixels = np.asarray(soft, dtype=np.float32)
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    light = 1 + 0.12 * (rng.uniform(-1, 1) * x + rng.uniform(-1, 1) * y)
    grain = np.random.default_rng(rng.getrandbits(32)).normal(0, 6, pixels.shape)
    grey = (pixels * light + grain).clip(0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A DejaVu font; matplotlib brings them."""
    import matplotlib

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}", size)
