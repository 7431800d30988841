"""`/openapi.json`, from the route table and the same models that check the requests. Pure."""

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from aiagentchat import __version__
from aiagentchat.gateway.routing import Route
from aiagentchat.gateway.schemas import Problem


def render_openapi(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the routes."""
    routes = list(routes)
    models: set[type[BaseModel]] = {Problem}
    for route in routes:
        models |= {model for model in (route.query, route.body, route.answer) if model is not None}
    ordered = sorted(models, key=lambda model: model.__name__)
    refs, definitions = models_json_schema(
        [(model, "validation") for model in ordered], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "aiagentchat gateway", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"credential": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"credential": []}],
    }


def _operation(route: Route, refs: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    content = refs[route.answer, "validation"] if route.answer is not None else {"type": "string"}
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__.strip("_"),
        "summary": route.summary,
        "parameters": [_as_agent(), *_path_parameters(route), *_query_parameters(route)],
        "responses": {
            "200": {"description": "Done.", "content": {route.media_type: {"schema": content}}},
            "default": {
                "description": "What is wrong, and what to do.",
                "content": {"application/problem+json": {"schema": refs[Problem, "validation"]}},
            },
        },
    }
    if route.body is not None:
        schema = refs[route.body, "validation"]
        bodies = {"application/json": {"schema": schema}}
        if route.takes_file:
            parts = {"message": schema, "file": {"type": "string", "format": "binary"}}
            form = {"type": "object", "properties": parts, "required": ["message", "file"]}
            bodies["multipart/form-data"] = {"schema": form}
        operation["requestBody"] = {"required": True, "content": bodies}
    return operation


def _as_agent() -> dict[str, Any]:
    return {
        "name": "AIAgentChat-As",
        "in": "header",
        "description": "With the operator's credential: the agent to act as.",
        "schema": {"type": "string"},
    }


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", route.path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = route.query.model_json_schema()
    return [
        {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": part}
        for name, part in schema.get("properties", {}).items()
    ]
