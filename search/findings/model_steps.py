"""From a file to a mask or boxes: what surrounds the network, in words, and as code that runs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence

from spaces.config import SegmentationConfig, TrialConfig
from spaces.data import ImagesSpec, SegmentationDataSpec
from spaces.text_detection import TextDetectionConfig
from trainers.batches import MEAN, STD, statistics
from trainers.dbnet.decode import MIN_SIDE, MIN_UNCLIPPED_SIDE
from trainers.dbnet.polygons import COARSENESS, ROUNDING
from trainers.models import STRIDE
from trainers.windows import SIGMA, fill

FOLDS = "The models of the folds have the mean of their probabilities, after step {step}."


def masks_section(
    names: Sequence[str], data: SegmentationDataSpec, config: SegmentationConfig
) -> str:
    """The steps of segmentation.

    Args:
        names: of the folders of the models.
    """
    before = steps_before(config, data)
    height, width = config.data.size
    bottom, right = -height % STRIDE, -width % STRIDE
    here = f"here {bottom} rows and {right} columns" if bottom or right else "here none"
    one = "the logit" if data.binary else "the logits, one for each class"
    network = [
        _normalise(data),
        f"Pad it with zeros, below and to the right, to multiples of {STRIDE}: {here}.",
        f"Run the network, and cut the padding off {one}.",
    ]
    after = ["Resize that to the image's own size: bilinear, `align_corners=False`."]
    if config.data.mode == "crop":
        after.insert(
            0,
            "At each pixel take the mean of the windows' logits, weighted by a Gaussian around the "
            f"centre of each window, of a deviation of {SIGMA} of its height and width.",
        )
    if data.binary:
        least = config.decode.threshold
        after.append(f"Sigmoid; class 1 where it is at least {least}, else class 0.")
    else:
        after.append("Argmax over the classes; softmax gives probabilities.")
    after += _postprocessing(config)
    steps = _numbered([*before, *network, *after])
    mean = FOLDS.format(step=len(before) + len(network))
    return _section("an image", steps, mean if len(names) > 1 else "", _views(config))


def plain_images(data: ImagesSpec) -> bool:
    """Whether images are RGB of usual depth, which a few lines of Pillow read."""
    return data.channels == 3 and data.range is None


def _read(data: ImagesSpec) -> str:
    what = {1: "8-bit grey", 3: "8-bit RGB"}.get(
        data.channels, f"its {data.channels} channels, 8 bits each"
    )
    said = f"Read the image as {what}, and turn it as its EXIF tag says. "
    if data.range is None:
        said += "Of 16 bits the upper byte counts."
    else:
        low, high = data.range
        said += (
            f"Values from {low:g} to {high:g} (`data.range`) become 0 to 255, rounded; others are "
            "cut there."
        )
    if data.channels in (1, 3):
        clear = (
            "Lay it on white where it is transparent." if data.on_white else "Leave opacity out."
        )
        said += f" {clear}"
    return said


def _normalise(data: ImagesSpec) -> str:
    mean, std = (list(part) for part in statistics(data.channels))
    of = {1: "", 3: " (R, G, B)"}.get(data.channels, " (channel by channel)")
    return f"Divide by 255, subtract {mean}{of} and divide by {std}."


def steps_before(config: SegmentationConfig, data: ImagesSpec) -> list[str]:
    """What a model.onnx takes, from the file on."""
    height, width = config.data.size
    if config.data.mode == "resize":
        resize = f"Resize it to {height} x {width}, whatever its shape: Pillow's `BILINEAR`, which "
        return [_read(data), f"{resize}is antialiased."]
    scale = config.data.scale
    filled = fill(data.channels)
    values = f"RGB {filled}" if data.channels == 3 else f"{filled}"
    return [
        _read(data),
        "Leave it at its size (`data.scale` is 1)."
        if scale == 1
        else f"Resize it to {scale} of its height and width (`data.scale`), in whole pixels: "
        "Pillow's `BILINEAR`, which is antialiased.",
        f"Lay windows of {height} x {width} over it at even distances, from its first row and "
        "column to its last: the fewest of which neighbours share at least "
        f"{config.decode.overlap} of their height or width (`decode.overlap`). A smaller image is "
        f"filled up with {values}, below and to the right. Each window then is the network's "
        "image.",
    ]


def _postprocessing(config: SegmentationConfig) -> list[str]:
    found = []
    if areas := _pixels(config.decode.smallest_area):
        found.append(
            "Give an area of a class to the class that most of its neighbours have, where it has "
            f"fewer pixels than (`decode.smallest_area`): {areas}. Areas hang together by sides "
            "and corners; classes come in their order."
        )
    if holes := _pixels(config.decode.fill_holes):
        found.append(
            "Give what a class encloses to it, where that has fewer pixels than "
            f"(`decode.fill_holes`): {holes}. Holes hang together by sides; classes come in their "
            "order."
        )
    return found


def _pixels(of_class: Mapping[str, int]) -> str:
    return ", ".join(f"{cell(name)} {pixels}" for name, pixels in of_class.items() if pixels)


def _views(config: TrialConfig) -> str:
    tta = config.flat()["decode.tta"]
    if tta == "none":
        return ""
    return (
        f"`decode.tta` is `{tta}`: segtune also runs the network on mirrored or resized copies and "
        "takes the mean of their logits. `--set decode.tta=none` leaves that out."
    )


def masks_example(
    names: Sequence[str], data: SegmentationDataSpec, config: SegmentationConfig
) -> str:
    """Python that makes a mask with segmentation_models_pytorch alone, of plain images."""
    if len(names) == 1:
        load = f'model = smp.from_pretrained("{names[0]}").eval()'
        run = ["logits = model(padded)"]
    else:
        load = f"names = {json.dumps(names)}\n"
        load += "models = [smp.from_pretrained(name).eval() for name in names]"
        run = ["each = [model(padded) for model in models]"]
        if data.binary:
            mean = "torch.stack([one.sigmoid() for one in each]).mean(0).logit(eps=1e-7)"
        else:
            mean = "torch.stack([one.log_softmax(1) for one in each]).logsumexp(0)"
        run.append(f"logits = {mean}")
    if data.binary:
        decide = f"mask = (logits.sigmoid()[0, 0] >= {config.decode.threshold}).byte().numpy()"
    else:
        decide = "mask = logits.argmax(1)[0].byte().numpy()"
    if config.data.mode == "crop":
        head, body = _windows_code(config, run, 1 if data.binary else len(data.class_names))
    else:
        head, body = _resize_code(config, run)
    lacks = _left_out(
        {
            "test-time augmentation": config.decode.tta != "none",
            "steps after argmax or threshold": bool(_postprocessing(config)),
        }
    )
    return f"""\
With segmentation_models_pytorch alone{lacks}:

```python
import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

{head}
MEAN, STD = torch.tensor({list(MEAN)}), torch.tensor({list(STD)})

{load}
image = ImageOps.exif_transpose(Image.open("image.png")).convert("RGB")
{body}
size = (image.height, image.width)
logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
{decide}  # (H, W), the indices of the classes
```"""


def _resize_code(config: SegmentationConfig, run: Sequence[str]) -> tuple[str, str]:
    """(Constants, from `image` to `logits` at network size)."""
    height, width = config.data.size
    head = f"HEIGHT, WIDTH, STRIDE = {height}, {width}, {STRIDE}"
    body = f"""\
resized = np.array(image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
pixels = (torch.from_numpy(resized) / 255 - MEAN) / STD  # (H, W, 3)
padded = F.pad(pixels.permute(2, 0, 1)[None], (0, -WIDTH % STRIDE, 0, -HEIGHT % STRIDE))
with torch.no_grad():
{_indented(run, 4)}
logits = logits[..., :HEIGHT, :WIDTH]"""
    return head, body


def _windows_code(config: SegmentationConfig, run: Sequence[str], channels: int) -> tuple[str, str]:
    """(Constants and functions, from `image` to `logits` at `data.scale`)."""
    height, width = config.data.size
    head = f"""\
HEIGHT, WIDTH, STRIDE = {height}, {width}, {STRIDE}
SCALE, OVERLAP, FILL = {config.data.scale}, {config.decode.overlap}, {fill(3)}


def starts(length, window):  # of the windows along a side
    if length <= window:
        return [0]
    gaps = -(-(length - window) // max(1, int(window * (1 - OVERLAP))))
    return [round(index * (length - window) / gaps) for index in range(gaps + 1)]


def gaussian(side):
    return torch.exp(-0.5 * ((torch.arange(side) - (side - 1) / 2) / (side * {SIGMA})) ** 2)


weight = gaussian(HEIGHT)[:, None] * gaussian(WIDTH)"""
    body = f"""\
height, width = (max(1, round(side * SCALE)) for side in (image.height, image.width))
resized = np.array(image.resize((width, height), Image.Resampling.BILINEAR))
whole = torch.tensor(FILL, dtype=torch.uint8).repeat(max(height, HEIGHT), max(width, WIDTH), 1)
whole[:height, :width] = torch.from_numpy(resized)
pixels = ((whole / 255 - MEAN) / STD).permute(2, 0, 1)[None]  # (1, 3, H, W)
total = torch.zeros(1, {channels}, *whole.shape[:2])
weights = torch.zeros(whole.shape[:2])
for top in starts(height, HEIGHT):
    for left in starts(width, WIDTH):
        rows, columns = slice(top, top + HEIGHT), slice(left, left + WIDTH)
        window = pixels[..., rows, columns]
        padded = F.pad(window, (0, -WIDTH % STRIDE, 0, -HEIGHT % STRIDE))
        with torch.no_grad():
{_indented(run, 12)}
        total[..., rows, columns] += weight * logits[..., :HEIGHT, :WIDTH]
        weights[rows, columns] += weight
logits = (total / weights)[..., :height, :width]"""
    return head, body


def pages_section(names: Sequence[str], data: ImagesSpec, config: TextDetectionConfig) -> str:
    """The steps of text detection."""
    decode, resolution = config.decode, config.data.resolution
    polygon = decode.output == "polygon"
    shape = "an outline" if polygon else "a rectangle"
    least = "the rectangle of least area around it" if polygon else "a side"
    found = (
        f"Take the pixels above {decode.thresh} (`thresh`), the outer contours of their regions, "
        f"and the rectangle of least area around each. Drop those with a side below {MIN_SIDE:g} "
        f"pixels, and keep the {decode.max_candidates} largest (`max_candidates`)."
    )
    if polygon:
        found += (
            f" Simplify the contour of each by {COARSENESS} of its length (`cv2.approxPolyDP`), "
            "and take that outline; where it has no area, the rectangle (`output`)."
        )
        out, round_ = "Move it out as a whole", f", simplify it by {ROUNDING} pixels"
        small = f"{least} has a side below {MIN_UNCLIPPED_SIDE:g} pixels"
    else:
        out, round_ = "Move its sides out", ""
        small = f"{least} is below {MIN_UNCLIPPED_SIDE:g} pixels"
    steps = [
        _read(data),
        f"Resize it so that its longer side has {resolution} pixels, the other one rounded: "
        "OpenCV's `INTER_AREA` where it shrinks, else `INTER_LINEAR`.",
        f"Pad it with black, below and to the right, to multiples of {STRIDE}.",
        _normalise(data),
        "Run the network, take the sigmoid of its probability logits, and cut the padding off.",
        found,
        f"Keep {shape} whose mean probability is at least {decode.box_thresh} (`box_thresh`). "
        f"{out} by area x {decode.unclip_ratio} / perimeter (`unclip_ratio`){round_}, drop it if "
        f"{small} then, and round to whole pixels.",
        "Multiply x by image width / network width and y likewise; cut at the edges of the image.",
    ]
    mean = FOLDS.format(step=5) if len(names) > 1 else ""
    return _section("a page", _numbered(steps), mean, _views(config))


def pages_example(names: Sequence[str], config: TextDetectionConfig) -> str:
    """Python from a page to its boxes, step by step, of plain images."""
    decode = ", ".join(f"{name}={value!r}" for name, value in config.decode if name != "tta")
    what = "boxes  # (M, 4, 2): x, y"
    if config.decode.output == "polygon":
        what = "outlines  # M times (K, 2): x, y"
    lacks = _left_out({"test-time augmentation": config.decode.tta != "none"})
    return f"""\
Step by step{lacks}; segmentation_models_pytorch has no DBNet, so that segtune must be installed:

```python
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from trainers.dbnet.decode import decode
from trainers.dbnet.head import DBNet
from trainers.text_augment import resize_page

MEAN, STD = torch.tensor({list(MEAN)}), torch.tensor({list(STD)})

models = [DBNet.from_pretrained(name) for name in {json.dumps(names)}]
page = ImageOps.exif_transpose(Image.open("image.png")).convert("RGBA")
white = Image.new("RGBA", page.size, "white")
image = np.array(Image.alpha_composite(white, page).convert("RGB"))
resized, scale = resize_page(image, {config.data.resolution})  # scale: image pixels a pixel (x, y)
height, width = resized.shape[:2]
padded = F.pad(torch.from_numpy(resized), (0, 0, 0, -width % {STRIDE}, 0, -height % {STRIDE}))
pixels = ((padded / 255 - MEAN) / STD).permute(2, 0, 1)[None]  # (1, 3, H, W)
with torch.no_grad():
    maps = [model(pixels, with_threshold=False)[0].sigmoid() for model in models]
probability = torch.stack(maps).mean(0)[0, 0, :height, :width].numpy()
settings = dict({decode})
boxes = decode(probability, image.shape[:2], scale, **settings).{what}
```"""


def load_section(example: str = "") -> str:
    """How to load a folder, with segtune and, by an example, without."""
    found = """\
## Load it

With segtune, which does all of the above, in `train.precision` of `config.yaml`:

```python
from trainers.predict import Predictor

[found] = Predictor(".").predict(["image.png"])  # in this folder
```"""
    return f"{found}\n\n{example}" if example else found


def cell(text: str) -> str:
    """A name, which may be any text, on one line and in one cell."""
    escaped = "".join(f"\\{c}" if c in "\\|`*_<>[]#" else c for c in text)
    return " ".join(escaped.split())


def _section(of: str, steps: str, *more: str) -> str:
    head = f"## What happens to {of}"
    return "\n\n".join(part for part in (head, steps, *more) if part)


def _numbered(steps: Sequence[str]) -> str:
    return "\n".join(
        textwrap.fill(
            f"{number}. {step}",
            100,
            subsequent_indent="   ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for number, step in enumerate(steps, 1)
    )


def _indented(lines: Sequence[str], by: int) -> str:
    return textwrap.indent("\n".join(lines), " " * by)


def _left_out(parts: Mapping[str, bool]) -> str:
    lacking = [what for what, on in parts.items() if on]
    return f", without {' and '.join(lacking)}" if lacking else ""
