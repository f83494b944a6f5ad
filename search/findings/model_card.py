"""The README of an exported folder: what the model is, and exactly what surrounds the network.

Whoever has the folder alone can use the weights by it, and its examples run as they stand
(tests/unit/search/test_model_card.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.findings.evidence import image_interval
from search.findings.gains import CHOSEN
from search.findings.looks import look_lines, over_images
from search.findings.model_steps import (
    cell,
    load_section,
    masks_example,
    masks_section,
    pages_example,
    pages_section,
    plain_images,
    steps_before,
)
from search.findings.onnx_models import agreement_lines
from search.studies.looks import Look
from spaces.config import SegmentationConfig, TrialConfig
from spaces.data import AnyDataSpec, SegmentationDataSpec
from spaces.initial_weights import encoder_weights, is_path
from spaces.paths import MODEL, MODELS
from spaces.text_detection import TextDetectionConfig
from trainers.checkpoint import fold_models
from trainers.image_counts import FILE as IMAGES
from trainers.image_counts import ImageCounts, score_of
from trainers.onnx_network import FACTS, FILE, INPUT, OUTPUT, input_size
from trainers.pictures import palette

README = "README.md"
LICENCE = "**Licence:** none was chosen for these weights. Choose one before you pass them on."


def model_card(
    folder: Path, data: AnyDataSpec, config: TrialConfig, facts: Mapping[str, Any]
) -> str:
    """The Markdown of a folder that holds the weights already.

    Args:
        facts: as in its provenance.json.
    """
    names = model_names(folder)
    title = f"{facts.get('study', 'run')}, trial {facts.get('trial', '-')}"
    lines = [
        *network_lines(names, config),
        f"**Trained:** {_epochs(facts)}, seed {config.train.seed}.",
        f"**Score on val:** {_val(folder, names, data, config, facts)}{chosen_since(facts)}.",
    ]
    if facts.get("test"):
        look = Look.model_validate(facts["test"])
        lines += [
            f"**{said[0].upper()}{said[1:]}.**" if index == 0 else f"{said}."
            for index, said in enumerate(look_lines(look, facts["test"]["looks"], facts["metric"]))
        ]
    lines += [
        "**Settings:** `config.yaml`. **Where it comes from:** `provenance.json`.",
        LICENCE,
    ]
    parts = [title_and(title, lines), *model_sections(names, data, config)]
    if facts.get("onnx"):
        said = agreement_lines(facts["onnx"], facts["metric"])
        parts.append(onnx_section(names, data, config, said))
    return joined([*parts, limits_section(data)])


def model_names(folder: Path) -> list[str]:
    """`model`, or `models/fold-1` and so on."""
    top = folder / (MODELS if (folder / MODELS).is_dir() else MODEL)
    return [str(model.relative_to(folder)) for model in fold_models(top)]


def title_and(title: str, lines: Sequence[str]) -> str:
    """A heading, and a list below it."""
    return "\n".join([f"# {title}", "", *(f"- {line}" for line in lines)])


def joined(sections: Sequence[str]) -> str:
    """A whole file of its sections."""
    return "\n\n".join(sections) + "\n"


def model_sections(names: Sequence[str], data: AnyDataSpec, config: TrialConfig) -> list[str]:
    """Classes, steps and examples of a model, or of the models of folds."""
    plain = plain_images(data)
    if isinstance(config, SegmentationConfig):
        assert isinstance(data, SegmentationDataSpec)
        example = masks_example(names, data, config) if plain else ""
        return [classes_section(data), masks_section(names, data, config), load_section(example)]
    assert isinstance(config, TextDetectionConfig)
    example = pages_example(names, config) if plain else ""
    return [pages_section(names, data, config), load_section(example)]


def network_lines(names: Sequence[str], config: TrialConfig) -> list[str]:
    """What the network is, and what it began from."""
    task = "semantic segmentation" if isinstance(config, SegmentationConfig) else "text detection"
    several = "" if len(names) == 1 else f"; one model for each of {len(names)} folds"
    return [
        f"**Network:** {task}, {network_of(config)}, {input_of(config)}{several}.",
        f"**Began from:** {start_of(config)}.",
    ]


def network_of(config: TrialConfig) -> str:
    """`Unet with encoder resnet18`."""
    if isinstance(config, SegmentationConfig):
        return f"{config.model.arch} with encoder {config.model.encoder}"
    assert isinstance(config, TextDetectionConfig)
    return f"DBNet ({config.model.decoder}) with encoder {config.model.encoder}"


def start_of(config: TrialConfig) -> str:
    """`imagenet weights of the encoder`, `random weights`, or the path of `model.init`."""
    assert isinstance(config, SegmentationConfig | TextDetectionConfig)
    named = encoder_weights(config.model)
    encoder = "random weights" if named is None else f"{named} weights of the encoder"
    if not is_path(config.model.init):
        return encoder
    return f"the weights in `{config.model.init}` (`model.init`); what they lack, from {encoder}"


def _epochs(facts: Mapping[str, Any]) -> str:
    if "refit" in facts:
        return f"{facts['refit']['epochs']} epochs on all images"
    if "fold_epochs" in facts:
        best = ", ".join(map(str, facts["fold_epochs"]))
        return f"fold by fold; these weights are of epochs {best}"
    return f"{facts['epochs']} epochs; these weights are of epoch {facts['best_epoch']}"


def input_of(config: TrialConfig) -> str:
    """What the network takes of an image."""
    if isinstance(config, SegmentationConfig):
        height, width = config.data.size
        said = f"input {height} x {width} (height x width)"
        if config.data.mode == "resize":
            return said
        return f"{said}, windows of the image at {config.data.scale:g} of its size"
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


def chosen_since(facts: Mapping[str, Any]) -> str:
    """What decode settings that were kept since the export have come to; mostly nothing."""
    kept = facts.get(CHOSEN)
    if not kept:
        return ""
    names = ", ".join(f"`{name}`" for name in kept[-1]["settings"])
    return f". With {names} as `config.yaml` has it since: {kept[-1]['value']:.4f}, chosen on val"


def classes_section(data: SegmentationDataSpec) -> str:
    """Their names and colours."""
    names = data.class_names
    colours: list[Any] = palette(len(names)).tolist()
    if data.palette is not None:
        colours = [*[(0, 0, 0)] * (len(names) - len(data.palette)), *data.palette]
    origin = "of the masks" if data.palette is not None else "that `segtune predict` paints"
    rows = [
        f"| {index} | {cell(name)} | {', '.join(map(str, colour))} |"
        for index, (name, colour) in enumerate(zip(names, colours, strict=True))
    ]
    left_out = [cell(name) for name in data.ignore_classes]
    note = f"\n\nNeither trained nor scored: {', '.join(left_out)}." if left_out else ""
    head = f"## Classes\n\n| index | class | colour (R, G, B) {origin} |\n|---|---|---|"
    return "\n".join([head, *rows]) + note


def onnx_section(
    names: Sequence[str], data: AnyDataSpec, config: TrialConfig, agreements: Sequence[str]
) -> str:
    """What goes into model.onnx and comes out of it.

    Args:
        agreements: what is known of it beside torch, a sentence each.
    """
    size = input_size(config)
    height, width = size or ("height", "width")
    files = ", ".join(f"`{name}/{FILE}`" for name in names)
    said = "\n".join(f"- {line}." for line in agreements)
    if isinstance(config, SegmentationConfig):
        before = len(steps_before(config, data))
        logits = "logits of each class (of a binary task of the foreground alone)"
        what = "windows of" if config.data.mode == "crop" else "resized to"
        fits = (
            f"{what} {height} x {width}, steps 1 to {before} above; steps {before + 1} to "
            f"{before + 3} are inside"
        )
    else:
        logits = "logits of text"
        fits = (
            "both sides multiples of 32, after steps 1 to 3 above; steps 4 and 5 are inside, up to "
            "the logits"
        )
    colours = " in RGB" if data.channels == 3 else ""
    return f"""\
## ONNX

{files}:

- Input `{INPUT}`: bytes (batch, {height}, {width}, {data.channels}){colours}, {fits}.
- Output `{OUTPUT}`: fp32 (batch, C, {height}, {width}), {logits}.
- The metadata `{FACTS}` has the classes and decode settings as JSON.
- `segtune predict . IMAGES --to OUT --runtime onnx` runs it.

{said}"""


def limits_section(data: AnyDataSpec) -> str:
    """What the folder refuses."""
    limit = f"Images of more than {data.max_pixels} pixels are refused (`data.max_pixels`)."
    return f"## Limits\n\n{limit}"
