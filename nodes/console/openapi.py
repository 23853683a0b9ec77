"""The OpenAPI 3.1 description of the operator's API, made from the table of its endpoints."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from nodes.console import contracts as c
from nodes.console.api import DOOR, ENDPOINTS, PREFIX, Endpoint
from nodes.console.texts import text

OPERATIONS = (*ENDPOINTS, *DOOR)


def describe() -> dict[str, Any]:
    """The document."""
    kinds: list[Any] = [c.Problem]
    for one in OPERATIONS:
        kinds += [kind for kind in (one.body, one.gives) if kind not in (None, bytes)]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    known = list(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in OPERATIONS:
        paths.setdefault(PREFIX + one.path, {})[one.method.lower()] = _operation(one, known)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Blind Lineup, operator's API", "version": "1", "description": text("banner")},
        "paths": paths,
        "security": [{"session": []}],
        "components": {
            "schemas": components,
            "securitySchemes": {"session": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(one: Endpoint, known: list[tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
    parts = re.findall(r"{(\w+)}", one.path)
    operation: dict[str, Any] = {
        "summary": one.summary,
        "operationId": one.name,
        "responses": {
            "200": {"description": "Done", "content": _content(one.gives, known)},
            "4XX": {"description": "Refused", "content": _content(c.Problem, known)},
        },
    }
    if not one.session:
        operation["security"] = []
    if parts:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in parts
        ]
    if one.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(one.body, known)}
    return operation


def _content(kind: Any, known: list[tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
    if kind is bytes:
        return {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return {"application/json": {"schema": next(schema for one, schema in known if one == kind)}}
