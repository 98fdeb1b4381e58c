"""The OpenAPI description of serving: its own routes, and those that the contracts of the models document."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI

from core.contract import Column, Contract, Route
from serving.documented import DocumentedRoutes
from serving.ranking import DEFAULT_K

_JSON = "application/json"
_PROBLEM: Mapping[str, Any] = {"content": {"application/problem+json": {}}}
_ANY_OBJECT: Mapping[str, Any] = {"content": {_JSON: {"schema": {"type": "object"}}}}
_PROBLEMS = {"415": "The body is not said to be JSON", "422": "The request does not fit the contract"}
_TYPES: Sequence[tuple[type, str]] = ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"))
_FILLED: Mapping[str, dict[str, Any]] = {
    "$prediction": {"anyOf": [{"type": "number"}, {"type": "array", "items": {"type": "number"}}]},
    "$model_uri": {"type": "string"},
    "$steps": {"type": "integer"},
    "$model": {"type": "string"},
    "$version": {"type": "integer"},
    "$version_name": {"type": "string"},
    "$variant": {"type": "string"},
    "$features_used": {"type": "array", "items": {"type": "string"}},
    "$description": {"type": "string"},
    "$class": {"type": "string"},
    "$probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
    "$source": {"type": "string", "enum": ["personal", "popular"]},
    "$history": {"type": "string", "enum": ["whole", "unavailable"]},
    "$prediction_id": {"type": "string", "format": "uuid"},
}


class DescribedApi(FastAPI):
    """An application whose description has the documented routes of the moment.

    They come and go with the versions, so that part is built each time it is asked for.
    """

    find_documented: Callable[[], DocumentedRoutes] = DocumentedRoutes

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        document = super().openapi()
        documented = {
            path: {route.method.lower(): _describe(contract, route)}
            for path, (contract, route) in self.find_documented().load_all().items()
        }
        return {**document, "paths": {**documented, **document["paths"]}}


def _describe(contract: Contract, route: Route) -> dict[str, Any]:
    described: dict[str, Any] = {
        "tags": [f"model {contract.model}"],
        "summary": contract.description,
        "operationId": f"{contract.model} {route.path}",
        "responses": {"200": _describe_success(contract, route)},
    }
    if route.codec is None:
        return described
    if route.codec == "training":
        described["responses"]["202"] = {"description": "A new training is queued", **_ANY_OBJECT}
        return described
    if route.codec == "history":
        described["parameters"] = _describe_parameters(contract)
    else:
        body = {"required": True, "content": {_JSON: {"schema": _describe_body(contract, route)}}}
        described["requestBody"] = body
    problems = ("422",) if route.codec == "history" else _PROBLEMS
    described["responses"] |= {status: {"description": _PROBLEMS[status], **_PROBLEM} for status in problems}
    return described


def _describe_success(contract: Contract, route: Route) -> dict[str, Any]:
    if route.codec == "observations":
        what, schema = "What became of the rows", {"type": "object"}
    elif route.codec == "training":
        what, schema = "One was queued or running already: this one", {"type": "object"}
    else:
        unit = contract.column(contract.target).unit or "its own unit"
        predicted = contract.description if contract.kind == "ranking" else f"{contract.target} in {unit}"
        what = "The version that serves" if route.codec is None else predicted
        schema = _describe_answer(contract, route)
    return {"description": what, "content": {_JSON: {"schema": schema}}}


def _describe_parameters(contract: Contract) -> list[dict[str, Any]]:
    """The user in the path, and how many items are wanted."""
    user, most = contract.column(contract.key.entity or ""), contract.ranking.most if contract.ranking else 0
    k = {"type": "integer", "minimum": 1, "maximum": most, "default": min(DEFAULT_K, most)}
    return [
        {"name": "user", "in": "path", "required": True, "schema": _describe_column(user)},
        {"name": "k", "in": "query", "description": "How many items are wanted", "schema": k},
    ]


def _describe_body(contract: Contract, route: Route) -> dict[str, Any]:
    if route.codec == "observations":
        row = _describe_object(contract.columns)
        return {"anyOf": [row, {"type": "array", "items": row, "minItems": 1}]}
    columns = [contract.column(name) for name in contract.features]
    if route.codec == "row":
        return _describe_object(columns)
    body = _describe_values(contract, columns) if route.codec == "values" else _describe_rows(contract, columns)
    return {"type": "object", "required": [route.codec], "properties": {route.codec: body}}


def _describe_values(contract: Contract, columns: Sequence[Column]) -> dict[str, Any]:
    size = contract.steps if contract.kind == "sequence" else len(columns)
    item = _describe_column(columns[0]) if contract.kind == "sequence" else {"type": "number"}
    return {"type": "array", "minItems": size, "maxItems": size, "items": item}


def _describe_rows(contract: Contract, columns: Sequence[Column]) -> dict[str, Any]:
    row = _describe_object(columns)
    if contract.kind == "sequence":
        return {"type": "array", "minItems": contract.steps, "maxItems": contract.steps, "items": row}
    return {"type": "array", "minItems": 1, "items": row} if contract.kind == "ranking" else row


def _describe_object(columns: Sequence[Column]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [column.name for column in columns if not column.is_nullable],
        "properties": {column.name: _describe_column(column) for column in columns},
    }


def _describe_column(column: Column) -> dict[str, Any]:
    kind = {"float": "number", "integer": "integer", "boolean": "boolean"}.get(column.dtype, "string")
    described: dict[str, Any] = {"type": kind}
    text = " ".join(part for part in (column.description, f"({column.unit})" if column.unit else "") if part)
    bounds = {"minimum": column.minimum, "maximum": column.maximum, "description": text or None}
    return described | {name: value for name, value in bounds.items() if value is not None}


def _describe_answer(contract: Contract, route: Route) -> dict[str, Any]:
    filled = {**_FILLED}
    if contract.ranking is not None:
        item = contract.column(contract.features[0])
        properties = {item.name: _describe_column(item), "score": {"type": "number"}}
        filled["$items"] = {"type": "array", "items": {"type": "object", "properties": properties}}
        filled["$user"] = _describe_column(contract.column(contract.key.entity or ""))
    members = {name: _describe_member(filled, value) for name, value in route.answer.items()}
    return {"type": "object", "properties": members}


def _describe_member(filled: Mapping[str, dict[str, Any]], value: object) -> dict[str, Any]:
    if isinstance(value, str) and value in filled:
        return filled[value]
    kind = next((name for known, name in _TYPES if isinstance(value, known)), None)
    return {"const": value} if kind is None else {"type": kind, "const": value}
