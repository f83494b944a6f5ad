"""The README of an ensemble's folder, and those of its members: what is in it, and how to use it.

A member's README has the steps of its own network, as that of any export; the ensemble's says what
is made of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.findings.evidence import CONFIDENCE
from search.findings.model_card import (
    LICENCE,
    chosen_since,
    classes_section,
    input_of,
    joined,
    limits_section,
    model_names,
    model_sections,
    network_lines,
    network_of,
    onnx_section,
    start_of,
    title_and,
)
from search.findings.model_steps import load_section
from search.findings.onnx_models import agreement_lines
from spaces.config import SegmentationConfig, TrialConfig
from spaces.data import AnyDataSpec, SegmentationDataSpec
from trainers.members import Member, read_members
from trainers.onnx_network import FILE


def ensemble_card(
    folder: Path, data: AnyDataSpec, config: TrialConfig, facts: Mapping[str, Any]
) -> str:
    """The Markdown of an ensemble's folder that holds its members already.

    Args:
        config: of the ensemble.
        facts: as in its provenance.json.
    """
    members = read_members(folder, config)
    models, draws = sum(len(one.models) for one in members), sum(one.draws for one in members)
    task = "semantic segmentation" if isinstance(config, SegmentationConfig) else "text detection"
    lines = [
        f"**Networks:** {task}, the mean of {len(members)} members' probabilities, {models} "
        "networks together.",
        f"**Score on val:** {_val(data, facts)}{chosen_since(facts)}.",
        "**Settings:** `config.yaml`, whose decode settings count; each member's own `config.yaml` "
        "has the rest. **Where it comes from:** `provenance.json`.",
        LICENCE,
    ]
    parts = [title_and(f"{facts['study']}, an ensemble", lines), _members(members, draws)]
    if isinstance(data, SegmentationDataSpec):
        parts.append(classes_section(data))
    parts += [_steps(data), load_section(_load_alone(members, config))]
    if facts.get("onnx"):
        parts.append(_onnx(members, facts))
    return joined([*parts, limits_section(data)])


def member_card(folder: Path, data: AnyDataSpec, config: TrialConfig, study: str) -> str:
    """The Markdown of a member's folder that holds its weights already."""
    names = model_names(folder)
    above = "`../../README.md`"
    lines = [
        *network_lines(names, config),
        f"**Score:** {above} has that of the ensemble.",
        "**Settings:** `config.yaml`, of this member alone: in the ensemble the decode settings of "
        "`../../config.yaml` count.",
        LICENCE,
    ]
    title = f"{study}, {folder.name.replace('-', ' ')}, a member of an ensemble"
    parts = [title_and(title, lines), *model_sections(names, data, config)]
    if all((folder / name / FILE).is_file() for name in names):
        said = [f"{above} says how it compares with torch on val"]
        parts.append(onnx_section(names, data, config, said))
    return joined([*parts, limits_section(data)])


def _val(data: AnyDataSpec, facts: Mapping[str, Any]) -> str:
    """Sentences: the score, what it is beside the best member, and what it is worth."""
    gain, metric = facts["ensemble"]["gain"], facts["metric"]
    said = f"{metric} {facts['value']:.4f}"
    if gain is not None:
        mean, half = gain["mean"], gain["half_width"]
        said += (
            f"; over the model of trial {facts['trial']} alone {mean:+.4f} ({CONFIDENCE:.0%} "
            f"interval over images: {mean - half:+.4f} to {mean + half:+.4f})"
        )
    said += ". Val has chosen the members, so this says too much. Only images that chose nothing "
    if data.test is not None:
        return f"{said}can tell: `segtune evaluate . --data test`"
    return f"{said}can tell; this study had none (`data.test`)"


def _members(members: Sequence[Member], draws: int) -> str:
    rows = [
        f"| `members/{one.folder.name}/` | {network_of(one.config)} | {input_of(one.config)} | "
        f"{start_of(one.config)} | {len(one.models)} | {one.draws} of {draws} |"
        for one in members
    ]
    head = "| folder | network | takes | began from | models | draws |\n|---|---|---|---|---|---|"
    return "\n".join(["## Members", "", head, *rows])


def _steps(data: AnyDataSpec) -> str:
    if isinstance(data, SegmentationDataSpec):
        one, decide = ("Sigmoid", "Threshold") if data.binary else ("Softmax", "Argmax")
        said = f"""\
1. Each member has steps of its own, in its README.md: up to its logits at the image's own size.
2. {one} of each, then their mean, weighted by draws.
3. {decide}, and what follows it, by the decode settings of `config.yaml` here."""
        return f"## What happens to an image\n\n{said}"
    said = """\
1. Each member has steps of its own, in its README.md: up to its map of probabilities.
2. Maps are resized to the largest of them: bilinear, `align_corners=False`.
3. Their mean, weighted by draws, is decoded by the decode settings of `config.yaml` here."""
    return f"## What happens to a page\n\n{said}"


def _load_alone(members: Sequence[Member], config: TrialConfig) -> str:
    names = [str(one.relative_to(m.folder.parents[1])) for m in members for one in m.models]
    listed = json.dumps(names, indent=4).replace('"\n]', '",\n]')
    if isinstance(config, SegmentationConfig):
        said, imports = (
            "With segmentation_models_pytorch alone",
            ("import segmentation_models_pytorch as smp"),
        )
        load = "smp.from_pretrained(name).eval()"
    else:
        said, imports = "The networks alone", "from trainers.dbnet.head import DBNet"
        load = "DBNet.from_pretrained(name)"
    return f"""\
{said}; what surrounds each of them is in its member's README.md, as code that runs:

```python
{imports}

names = {listed}
models = [{load} for name in names]
```"""


def _onnx(members: Sequence[Member], facts: Mapping[str, Any]) -> str:
    files = [
        f"members/{one.folder.name}/{model.relative_to(one.folder)}/{FILE}"
        for one in members
        for model in one.models
    ]
    lines = agreement_lines(facts["onnx"], facts["metric"], files)
    said = "\n".join(f"- {line}." for line in lines)
    return f"""\
## ONNX

Each network is there as `{FILE}`, too; its member's README.md says what it takes and gives.
`segtune predict . IMAGES --to OUT --runtime onnx` runs all of them.

{said}"""
