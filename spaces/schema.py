"""The JSON Schema of study files, for completion and checks in editors."""

from __future__ import annotations

from typing import Any

from spaces.config import SegmentationConfig, parameter_types
from spaces.models import ARCHS, ENCODERS, TIMM
from spaces.spec import TASKS, Task

RESOLUTION = {"type": ["string", "integer"], "description": "HxW in pixels, or one number"}
ENCODER = {
    "anyOf": [{"enum": list(ENCODERS)}, {"type": "string", "pattern": f"^{TIMM}"}],
    "description": f"as segmentation_models_pytorch names it, or {TIMM} and the name of a timm one",
}


def study_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of study files, for completion in editors."""
    schemas = [_task_schema(task) for task in TASKS.values()]
    definitions: dict[str, Any] = {}
    for schema in schemas:
        definitions.update(schema.pop("$defs"))
    return {"title": "segtune study file", "oneOf": schemas, "$defs": definitions}


def _task_schema(task: Task) -> dict[str, Any]:
    schema = task.study.model_json_schema()
    trial = task.config.model_json_schema()
    schema.setdefault("$defs", {}).update(trial.get("$defs", {}))
    range_ = {
        "type": "object",
        "properties": {
            "low": {"type": "number"},
            "high": {"type": "number"},
            "log": {"type": "boolean"},
            "step": {"type": "number", "exclusiveMinimum": 0},
            "free": {"type": "boolean"},
            "when": {"type": "object"},
            "prior": {
                "type": "object",
                "description": "where the first trials draw from; spread: 3x on a log range, else "
                "a number in its units",
                "properties": {
                    "center": {"type": "number"},
                    "spread": {
                        "anyOf": [
                            {"type": "number", "exclusiveMinimum": 0},
                            {"type": "string", "pattern": r"^(\d+(\.\d*)?|\.\d+)x$"},
                        ]
                    },
                },
                "required": ["center", "spread"],
                "additionalProperties": False,
            },
        },
        "additionalProperties": False,
    }
    schema["properties"]["space"] = {
        "type": "object",
        "additionalProperties": False,
        "description": "a value pins, a list is a choice, {low, high, log} is a range",
        "properties": {
            name: _entry(_leaf(trial, name), range_) for name in parameter_types(task.config)
        },
    }
    schema["properties"]["confirm"]["anyOf"].append({"const": "none"})
    for part in ("sampler", "pruner", "metric"):
        model = task.study.model_fields[part].annotation
        assert model is not None
        names = schema["$defs"][model.__name__]["properties"]["name"]["enum"]
        schema["properties"][part] = {
            "anyOf": [{"enum": names}, {"$ref": f"#/$defs/{model.__name__}"}]
        }
    return schema


def _entry(leaf: dict[str, Any], range_: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of what `space:` says of a setting: a value, a list of them, or a range."""
    listed = {"type": "array", "minItems": 1, "items": leaf}
    if leaf is RESOLUTION:
        pair = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
        listed["items"] = {"anyOf": [leaf, pair]}
    within = {**range_, "properties": {**range_["properties"], "choices": listed}}
    return {"anyOf": [leaf, listed, within]}


def _leaf(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """The JSON Schema of one dotted setting; resolutions also take numbers and pairs."""
    if name == "data.resolution" and schema["title"] == SegmentationConfig.__name__:
        return RESOLUTION
    if name == "model.arch":
        return {"enum": list(ARCHS), "description": "as segmentation_models_pytorch names it"}
    if name == "model.encoder":
        return ENCODER
    node = schema
    for part in name.split("."):
        leaf: dict[str, Any] = node["properties"][part]
        node = schema["$defs"][leaf["$ref"].rsplit("/", 1)[-1]] if "$ref" in leaf else leaf
    return node
