"""The OpenAPI document of the HTTP API, made out of its routes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from search.dashboard.api.routes import BASE, JSON, TOO_LARGE, YAML, Route
from search.dashboard.api.shapes import Asked, Failure
from search.studies.job_kinds import FILE_LENGTH

Mode = Literal["validation", "serialization"]

REF = "#/components/schemas/{model}"
ZIP = "application/octet-stream"
ABOUT = (
    "What the dashboard's pages show and do, for programs. Sign in with a token: `segtune users "
    "token NAME --label LABEL`. A change needs one wherever users sign in by name, whoever else "
    "is signed in; it is refused where all share one password."
)
FAILURES = {
    400: "The request means nothing here.",
    401: "Nobody has signed in.",
    403: "Who asks may not do this, or nobody may.",
    404: "There is no such study or job.",
    405: "The path takes other methods.",
    TOO_LARGE.value: "The body is too large.",
    415: "The body is of another type.",
    429: "Too many jobs wait already.",
    503: "Too many files are being sent.",
}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the document of some routes, as plain data."""
    paths: dict[str, dict[str, Any]] = {}
    models: dict[type[BaseModel], Mode] = {Failure: "serialization"}
    for route in routes:
        if route.gives is not None:
            models[route.gives] = "serialization"
        if route.takes is not None and issubclass(route.takes, BaseModel):
            models[route.takes] = "validation"  # in which settings with a default may be left out
        paths.setdefault(BASE + route.path, {})[route.method.lower()] = _operation(route)
    _, schemas = models_json_schema(list(models.items()), ref_template=REF)
    return {
        "openapi": "3.1.0",
        "info": {"title": "segtune", "version": "1", "description": ABOUT},
        "paths": paths,
        "security": [{"token": []}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas["$defs"],
            "responses": {str(code): _failure(said) for code, said in FAILURES.items()},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    keys = re.findall(r"\{(\w+)\}", route.path)
    gives = {ZIP: {}} if route.gives is None else {JSON: {"schema": _ref(route.gives)}}
    answers = {route.status: gives}
    if route.or_asks:
        answers[HTTPStatus.ACCEPTED] = {JSON: {"schema": _ref(Asked)}}
    failures = [400, 401, 403, 404, 405]
    if route.method == "POST":
        failures += [TOO_LARGE.value, 415, 429]
    elif route.gives is None:
        failures.append(503)
    operation: dict[str, Any] = {
        "operationId": "_".join([route.method.lower(), *re.findall("[a-z]+", route.path)]),
        "summary": route.says,
        "responses": {
            **{str(s.value): {"description": s.phrase, "content": c} for s, c in answers.items()},
            **{str(code): {"$ref": f"#/components/responses/{code}"} for code in failures},
        },
    }
    if keys:
        operation["parameters"] = [_parameter(key) for key in keys]
    if route.takes is str:
        text = {"type": "string", "minLength": 1, "maxLength": FILE_LENGTH}
        operation["requestBody"] = {"required": True, "content": {YAML: {"schema": text}}}
    elif route.takes is not None:
        assert issubclass(route.takes, BaseModel)
        content = {JSON: {"schema": _ref(route.takes)}}
        operation["requestBody"] = {"required": False, "content": content}
    return operation


def _parameter(key: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if key == "number":
        schema = {"type": "integer", "minimum": 1}
    return {"name": key, "in": "path", "required": True, "schema": schema}


def _failure(said: str) -> dict[str, Any]:
    return {"description": said, "content": {JSON: {"schema": _ref(Failure)}}}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF.format(model=model.__name__)}
