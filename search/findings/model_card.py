"""The README of an exported folder: what the model is, and exactly what surrounds the network.

Whoever has the folder alone can use the weights by it, and its examples run as they stand
(tests/unit/search/test_model_card.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.findings.evidence import image_interval
from search.findings.looks import look_lines, over_images
from search.findings.onnx_models import agreement_lines
from search.studies.looks import Look
from spaces.config import SegmentationConfig, TrialConfig
from spaces.data import AnyDataSpec, SegmentationDataSpec
from spaces.paths import MODEL, MODELS
from spaces.text_detection import TextDetectionConfig
from trainers.batches import MEAN, STD
from trainers.checkpoint import fold_models
from trainers.image_counts import FILE as IMAGES
from trainers.image_counts import ImageCounts, score_of
from trainers.models import STRIDE
from trainers.onnx_network import FACTS, FILE, INPUT, OUTPUT, input_size
from trainers.pictures import palette

README = "README.md"


def model_card(
    folder: Path, data: AnyDataSpec, config: TrialConfig, facts: Mapping[str, Any]
) -> str:
    """The Markdown of a folder that holds the weights already.

    Args:
        facts: as in its provenance.json.
    """
    names = _model_names(folder)
    if isinstance(config, SegmentationConfig):
        assert isinstance(data, SegmentationDataSpec)
        parts = [_classes(data), _segmentation(names, data, config)]
    else:
        assert isinstance(config, TextDetectionConfig)
        parts = [_text(names, config)]
    if facts.get("onnx"):
        parts.append(_onnx(names, config, facts))
    return "\n\n".join([_about(folder, data, config, facts), *parts, _rest(data)]) + "\n"


def _model_names(folder: Path) -> list[str]:
    """`model`, or `models/fold-1` and so on."""
    top = folder / (MODELS if (folder / MODELS).is_dir() else MODEL)
    return [str(model.relative_to(folder)) for model in fold_models(top)]


def _about(folder: Path, data: AnyDataSpec, config: TrialConfig, facts: Mapping[str, Any]) -> str:
    names = _model_names(folder)
    model = config.model_dump()["model"]
    if isinstance(config, SegmentationConfig):
        network = f"semantic segmentation, {model['arch']} with encoder {model['encoder']}"
    else:
        network = f"text detection, DBNet ({model['decoder']}) with encoder {model['encoder']}"
    title = f"{facts.get('study', 'run')}, trial {facts.get('trial', '-')}"
    several = "" if len(names) == 1 else f"; one model for each of {len(names)} folds"
    start = model["encoder_weights"]
    lines = [
        f"# {title}",
        "",
        f"- **Network:** {network}, {_input(config)}{several}.",
        f"- **Began from:** {'random weights' if start is None else f'{start} weights'}.",
        f"- **Trained:** {_epochs(facts)}, seed {config.train.seed}.",
        f"- **Score on val:** {_val(folder, names, data, config, facts)}.",
    ]
    if facts.get("test"):
        look = Look.model_validate(facts["test"])
        lines += [
            f"- **{said[0].upper()}{said[1:]}.**" if index == 0 else f"- {said}."
            for index, said in enumerate(look_lines(look, facts["test"]["looks"], facts["metric"]))
        ]
    lines += [
        "- **Settings:** `config.yaml`. **Where it comes from:** `provenance.json`.",
        "- **Licence:** none was chosen for these weights. Choose one before you pass them on.",
    ]
    return "\n".join(lines)


def _epochs(facts: Mapping[str, Any]) -> str:
    if "refit" in facts:
        return f"{facts['refit']['epochs']} epochs on all images"
    if "fold_epochs" in facts:
        best = ", ".join(map(str, facts["fold_epochs"]))
        return f"fold by fold; these weights are of epochs {best}"
    return f"{facts['epochs']} epochs; these weights are of epoch {facts['best_epoch']}"


def _input(config: TrialConfig) -> str:
    if isinstance(config, SegmentationConfig):
        height, width = config.data.size
        return f"input {height} x {width} (height x width)"
    assert isinstance(config, TextDetectionConfig)
    return f"longer side {config.data.resolution} pixels"


def _val(
    folder: Path,
    names: list[str],
    data: AnyDataSpec,
    config: TrialConfig,
    facts: Mapping[str, Any],
) -> str:
    """`mIoU 0.2868; 95% interval over its 101 images: 0.2600 to 0.3110`."""
    if "refit" in facts:
        images = facts["refit"]["images"]
        return (
            f"none, as no image was left: it was trained on all {images}. The models of the folds "
            f"had {facts['metric']} {facts['value']:.4f}"
        )
    said = f"{facts['metric']} {facts['value']:.4f}"
    if len(names) > 1:
        return f"{said}, the mean of the models, each on the images that it has not seen"
    counts = folder / names[0] / IMAGES
    if not counts.is_file():
        return said
    kept = ImageCounts.from_bytes(counts.read_bytes()).counts
    interval = image_interval(score_of(config.metric, data), [kept])
    return said if interval is None else f"{said}; {over_images(interval, len(kept))}"


def _classes(data: SegmentationDataSpec) -> str:
    names = data.class_names
    colours: list[Any] = palette(len(names)).tolist()
    if data.palette is not None:
        colours = [*[(0, 0, 0)] * (len(names) - len(data.palette)), *data.palette]
    origin = "of the masks" if data.palette is not None else "that `segtune predict` paints"
    rows = [
        f"| {index} | {_cell(name)} | {', '.join(map(str, colour))} |"
        for index, (name, colour) in enumerate(zip(names, colours, strict=True))
    ]
    left_out = [_cell(name) for name in data.ignore_classes]
    note = f"\n\nNeither trained nor scored: {', '.join(left_out)}." if left_out else ""
    head = f"## Classes\n\n| index | class | colour (R, G, B) {origin} |\n|---|---|---|"
    return "\n".join([head, *rows]) + note


def _cell(text: str) -> str:
    """A name, which may be any text, on one line and in one cell."""
    escaped = "".join(f"\\{c}" if c in "\\|`*_<>[]#" else c for c in text)
    return " ".join(escaped.split())


READ = """\
1. Read the image as 8-bit RGB, in any mode that Pillow reads, and turn it as its EXIF tag says. Of
   16-bit grey the upper byte counts."""

NORMALISE = f"""\
Divide by 255, subtract {list(MEAN)} (R, G, B) and divide by {list(STD)}."""


def _segmentation(names: list[str], data: SegmentationDataSpec, config: SegmentationConfig) -> str:
    height, width = config.data.size
    bottom, right = -height % STRIDE, -width % STRIDE
    here = f"here {bottom} rows and {right} columns" if bottom or right else "here none"
    one = "the logit" if data.binary else "the logits, one for each class"
    if data.binary:
        decide = f"sigmoid; class 1 where it is at least {config.decode.threshold}, else class 0"
    else:
        decide = "argmax over the classes; softmax gives probabilities"
    steps = f"""\
## What happens to an image

{READ}
2. Resize it to {height} x {width}, whatever its shape: Pillow's `BILINEAR`, which is antialiased.
3. {NORMALISE}
4. Pad it with zeros, below and to the right, to multiples of {STRIDE}: {here}.
5. Run the network, and cut the padding off {one}.
6. Resize that to the image's own size: bilinear, `align_corners=False`.
7. {decide[0].upper()}{decide[1:]}."""
    extras = []
    if len(names) > 1:
        extras.append("The models of the folds have the mean of their probabilities, after step 5.")
    return "\n\n".join([steps, *extras, *_tta(config), _load(_smp_example(names, data, config))])


def _tta(config: TrialConfig) -> list[str]:
    tta = config.flat().get("decode.tta", "none")
    if tta == "none":
        return []
    return [
        f"`decode.tta` is `{tta}`: segtune also runs the network on changed copies of the image "
        "and takes the mean. `--set decode.tta=none` leaves that out, as the second example does."
    ]


def _load(example: str) -> str:
    return f"""\
## Load it

With segtune, which does all of the above, in `train.precision` of `config.yaml`:

```python
from trainers.predict import Predictor

[found] = Predictor(".").predict(["image.png"])  # in this folder
```

{example}"""


def _smp_example(names: list[str], data: SegmentationDataSpec, config: SegmentationConfig) -> str:
    height, width = config.data.size
    if len(names) == 1:
        load = f'model = smp.from_pretrained("{names[0]}").eval()'
        run = "logits = model(padded)"
    else:
        load = f"names = {json.dumps(names)}\n"
        load += "models = [smp.from_pretrained(name).eval() for name in names]"
        run = "each = [model(padded) for model in models]"
        if data.binary:
            mean = "torch.stack([one.sigmoid() for one in each]).mean(0).logit(eps=1e-7)"
        else:
            mean = "torch.stack([one.log_softmax(1) for one in each]).logsumexp(0)"
        run += f"\n    logits = {mean}"
    if data.binary:
        decide = f"mask = (logits.sigmoid()[0, 0] >= {config.decode.threshold}).byte().numpy()"
    else:
        decide = "mask = logits.argmax(1)[0].byte().numpy()"
    return f"""\
With segmentation_models_pytorch alone:

```python
import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

HEIGHT, WIDTH, STRIDE = {height}, {width}, {STRIDE}
MEAN, STD = torch.tensor({list(MEAN)}), torch.tensor({list(STD)})

{load}
image = ImageOps.exif_transpose(Image.open("image.png")).convert("RGB")
resized = np.array(image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
pixels = (torch.from_numpy(resized) / 255 - MEAN) / STD  # (H, W, 3)
padded = F.pad(pixels.permute(2, 0, 1)[None], (0, -WIDTH % STRIDE, 0, -HEIGHT % STRIDE))
with torch.no_grad():
    {run}
logits = logits[..., :HEIGHT, :WIDTH]
size = (image.height, image.width)
logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
{decide}  # (H, W), the indices of the classes
```"""


def _text(names: list[str], config: TextDetectionConfig) -> str:
    decode = config.decode
    resolution = config.data.resolution
    steps = f"""\
## What happens to a page

{READ}
2. Resize it so that its longer side has {resolution} pixels, the other one rounded: OpenCV's
   `INTER_AREA` where it shrinks, else `INTER_LINEAR`.
3. Pad it with black, below and to the right, to multiples of {STRIDE}.
4. {NORMALISE}
5. Run the network, take the sigmoid of its probability logits, and cut the padding off.
6. Take the pixels above {decode.thresh} (`thresh`), the outer contours of their regions, and the
   rectangle of least area around each. Drop those with a side below 3 pixels, and keep the
   {decode.max_candidates} largest (`max_candidates`).
7. Keep a rectangle whose mean probability is at least {decode.box_thresh} (`box_thresh`). Move its
   sides out by area x {decode.unclip_ratio} / perimeter (`unclip_ratio`), round to whole pixels,
   and drop it if a side is below 5 pixels then.
8. Multiply x by image width / network width and y likewise; cut at the edges of the image."""
    extras = []
    if len(names) > 1:
        extras.append("The models of the folds have the mean of their probabilities, after step 5.")
    return "\n\n".join([steps, *extras, *_tta(config), _load(_dbnet_example(names, config))])


def _dbnet_example(names: list[str], config: TextDetectionConfig) -> str:
    decode = ", ".join(f"{name}={value}" for name, value in config.decode if name != "tta")
    return f"""\
Step by step; segmentation_models_pytorch has no DBNet, so that segtune must be installed:

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
image = np.array(ImageOps.exif_transpose(Image.open("image.png")).convert("RGB"))
resized, scale = resize_page(image, {config.data.resolution})  # scale: image pixels a pixel (x, y)
height, width = resized.shape[:2]
padded = F.pad(torch.from_numpy(resized), (0, 0, 0, -width % {STRIDE}, 0, -height % {STRIDE}))
pixels = ((padded / 255 - MEAN) / STD).permute(2, 0, 1)[None]  # (1, 3, H, W)
with torch.no_grad():
    maps = [model(pixels, with_threshold=False)[0].sigmoid() for model in models]
probability = torch.stack(maps).mean(0)[0, 0, :height, :width].numpy()
boxes = decode(probability, image.shape[:2], scale, {decode}).boxes  # (M, 4, 2): x, y
```"""


def _onnx(names: list[str], config: TrialConfig, facts: Mapping[str, Any]) -> str:
    height, width = input_size(config)
    files = ", ".join(f"`{name}/{FILE}`" for name in names)
    said = "\n".join(f"- {line}." for line in agreement_lines(facts["onnx"], facts["metric"]))
    logits = "logits of each class (of a binary task of the foreground alone)"
    fits = f"resized to {height} x {width}, steps 1 and 2 above; steps 3 to 5 are inside"
    if isinstance(config, TextDetectionConfig):
        logits = "logits of text"
        fits = f"step 2 above, padded with black to {height} x {width}; steps 4 and 5 are inside"
    return f"""\
## ONNX

{files}:

- Input `{INPUT}`: bytes (batch, {height}, {width}, 3) in RGB, {fits}, up to the logits.
- Output `{OUTPUT}`: fp32 (batch, C, {height}, {width}), {logits}.
- The metadata `{FACTS}` has the classes and decode settings as JSON.
- `segtune predict . IMAGES --to OUT --runtime onnx` runs it.

{said}"""


def _rest(data: AnyDataSpec) -> str:
    limit = f"Images of more than {data.max_pixels} pixels are refused (`data.max_pixels`)."
    return f"## Limits\n\n{limit}"
