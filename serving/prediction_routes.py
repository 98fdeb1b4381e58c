"""The prediction routes over HTTP: `POST /models/{model}/predict`, and the paths that contracts document.

They are plain ASGI applications: one row takes the model some 0.05 ms, and what a framework does around a request
would be most of its time.
"""

from collections.abc import Callable
from functools import partial

from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from core.contract import Route
from core.errors import Fault, RequestRejected, show_value
from serving.answers import encode_documented, encode_prediction
from serving.data_plane import DataPlane
from serving.follower import Follower
from serving.loading import LoadedVersion
from web.bodies import check_json_type, parse_json, read_body
from web.request_ids import add_answer_headers, get_request_id

# Up to here a request is decoded and computed on the event loop, which is then held for less than a millisecond;
# handing it to a thread and back costs about 0.1 ms, more than one row takes. What is longer goes to a thread.
INLINE_MAX_BYTES = 8 * 1024
INLINE_MAX_ROW_MS = 1.0

_PATH = "/models/{model}/predict"


class PredictionRoutes:
    """Reads a request, has the data plane answer it, and writes the answer."""

    def __init__(self, follower: Follower, data_plane: DataPlane, max_body_bytes: int) -> None:
        self._follower = follower
        self._data_plane = data_plane
        self._max_body_bytes = max_body_bytes

    async def answer_model(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `POST /models/{model}/predict`."""
        model: str = scope["path_params"]["model"]
        body, is_small = await self._read(scope, receive)
        version = _find_version(model, body)
        if version is None:
            loaded = self._follower.get_serving(model)
        else:
            loaded = await run_in_threadpool(self._follower.get_version, model, version)

        def compute() -> bytes:
            return encode_prediction(self._data_plane.predict(loaded, body, get_request_id(scope)))

        await _answer(scope, send, loaded, compute, is_small)

    async def answer_documented(self, model: str, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a path that the contract of `model` documents as `route`."""
        body, is_small = await self._read(scope, receive)
        loaded = self._follower.get_serving(model)

        def compute() -> bytes:
            prediction = self._data_plane.predict_documented(loaded, route, body, get_request_id(scope))
            return encode_documented(prediction, route)

        await _answer(scope, send, loaded, compute, is_small)

    async def _read(self, scope: Scope, receive: Receive) -> tuple[object, bool]:
        check_json_type(scope)
        content = await read_body(scope, receive, self._max_body_bytes)
        is_small = len(content) <= INLINE_MAX_BYTES
        return (parse_json(content) if is_small else await run_in_threadpool(parse_json, content)), is_small


class PlainRoute(APIRoute):
    """A route that the OpenAPI description shows, answered by a plain ASGI application."""

    def __init__(self, path: str, answer: ASGIApp, **documented: object) -> None:
        super().__init__(path, _describe, **documented)  # type: ignore[arg-type]  # FastAPI's own keywords
        self.app = answer


class Door:
    """What no fixed route matched: a documented route, or a request for another process."""

    def __init__(self, follower: Follower, predictions: PredictionRoutes, forward: ASGIApp) -> None:
        self._follower = follower
        self._predictions = predictions
        self._forward = forward

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        found = self._follower.documented.find(scope["path"])
        if found is None:
            await self._forward(scope, receive, send)
            return
        model, route = found
        if scope["method"] != route.method:
            raise HTTPException(405, headers={"Allow": route.method})
        await self._predictions.answer_documented(model, route, scope, receive, send)


def build_prediction_route(predictions: PredictionRoutes) -> PlainRoute:
    """The route `POST /models/{model}/predict`, with its description."""
    return PlainRoute(
        _PATH,
        predictions.answer_model,
        methods=["POST"],
        name="predict",
        tags=["predictions"],
        summary="Predict with the version that serves, or with one asked for by number",
        response_model=None,
        openapi_extra=_OPENAPI,
        responses={
            200: {"description": "One prediction and one id a row", "content": {"application/json": _ANSWER}},
            **{status: _problem(text) for status, text in _PROBLEMS.items()},
        },
    )


async def _answer(
    scope: Scope, send: Send, loaded: LoadedVersion, compute: Callable[[], bytes], is_small: bool
) -> None:
    name, version = loaded.model.encode(), b"%d" % loaded.version
    add_answer_headers(scope, [(b"x-model-name", name), (b"x-model-version", version)])
    if is_small and loaded.row_ms <= INLINE_MAX_ROW_MS:
        content = compute()
    else:
        content = await run_in_threadpool(partial(compute))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _find_version(model: str, body: object) -> int | None:
    version = body.get("version") if isinstance(body, dict) else None
    if version is None:
        return None
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise RequestRejected(model, [Fault("version", show_value(version), "a version's number is expected")])
    return version


async def _describe(model: str) -> None:
    """Send `values` (numbers, or a list of such lists) or `rows` (objects by column), and `version` if one is meant.

    What is missing, of a wrong type, not finite or out of the contract's bounds is refused with its place and value.
    """


def _problem(text: str) -> dict[str, object]:
    return {"description": text, "content": {"application/problem+json": {}}}


_PROBLEMS = {
    400: "The body is not JSON",
    404: "There is no such model or version",
    413: "The body is too large",
    415: "The body is not said to be JSON",
    422: "The request does not fit the contract",
    503: "There is no version to serve, or the prediction cannot be recorded",
}
_NUMBERS = {"type": "array", "items": {"type": "number"}}
_OBJECTS = {"type": "array", "items": {"type": "object"}}
_OPENAPI = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "values": {"anyOf": [_NUMBERS, {"type": "array", "items": _NUMBERS}]},
                        "rows": {"anyOf": [{"type": "object"}, _OBJECTS, {"type": "array", "items": _OBJECTS}]},
                        "version": {"type": "integer", "minimum": 1},
                    },
                    "oneOf": [{"required": ["values"]}, {"required": ["rows"]}],
                    "additionalProperties": False,
                }
            }
        },
    }
}
_ANSWER = {
    "schema": {
        "type": "object",
        "required": ["model", "version", "predictions", "prediction_ids"],
        "properties": {
            "model": {"type": "string"},
            "version": {"type": "integer"},
            "predictions": {"type": "array", "items": {"anyOf": [{"type": "number"}, _NUMBERS]}},
            "prediction_ids": {"type": "array", "items": {"type": "string", "format": "uuid"}},
        },
    }
}
