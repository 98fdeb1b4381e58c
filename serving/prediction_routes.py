"""The prediction routes over HTTP: `POST /models/{model}/predict`, and the paths that contracts document.

They are plain ASGI applications: one row takes the model some 0.05 ms, and what a framework does around a request
would be most of its time.
"""

from fastapi import Depends, FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from core.contract import Route
from core.errors import Fault, RequestRejected, show_value
from core.targets import LATEST, PRODUCTION
from core.version_names import LARGEST_NUMBER, is_version_name
from serving.answering import PREDICT, READ, Answering
from serving.answers import encode_described, encode_documented, encode_prediction
from serving.data_plane import DataPlane
from serving.follower import Follower
from serving.histories import Histories
from serving.ranking import encode_ranking, parse_ranking
from web.bodies import check_json_type
from web.problems import MethodNotAllowed
from web.request_ids import get_request_id

_PREFIX, _SUFFIX = "/models/", "/predict"
_PATH = f"{_PREFIX}{{model}}{_SUFFIX}"


class PredictionRoutes:
    """Reads a request, has the data plane answer it, and writes the answer."""

    def __init__(self, data_plane: DataPlane, answering: Answering, histories: Histories) -> None:
        self._data_plane = data_plane
        self._answering = answering
        self._histories = histories

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `POST /models/{model}/predict`."""
        model: str = scope["path_params"]["model"]
        PREDICT.check(scope, model)
        with self._answering.admission:
            content, body = await self._read(scope, receive)
            loaded = await self._answering.find_version(scope, model, _find_version(model, body))

            def compute() -> bytes:
                return encode_prediction(self._data_plane.predict(loaded, body, get_request_id(scope)))

            await self._answering.send(scope, send, loaded, compute, len(content))

    async def answer_documented(self, model: str, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a path that the contract of `model` documents as `route`."""
        (READ if route.codec is None else PREDICT).check(scope, model)
        if route.codec is None:
            serving = await self._answering.find_version(scope, model)

            def describe() -> bytes:
                return encode_described(serving.contract, serving.version, route)

            await self._answering.send(scope, send, serving, describe)
            return
        with self._answering.admission:
            content, body = await self._read(scope, receive)
            loaded = await self._answering.find_version(scope, model)

            def compute() -> bytes:
                prediction = self._data_plane.predict_documented(loaded, route, body, get_request_id(scope))
                return encode_documented(prediction, route)

            await self._answering.send(scope, send, loaded, compute, len(content))

    async def answer_ranking(self, model: str, route: Route, user: str, scope: Scope, send: Send) -> None:
        """Answer a documented path with the best items for the user in it."""
        PREDICT.check(scope, model)
        with self._answering.admission:
            loaded = await self._answering.find_version(scope, model)

            def compute() -> bytes:
                with self._data_plane.noting_refusal(loaded, get_request_id(scope)):
                    asked = parse_ranking(loaded.contract, user, scope["query_string"])
                history = self._histories.load(loaded.contract, asked.user)
                ranked = self._data_plane.rank(loaded, history, asked.k, get_request_id(scope))
                return encode_ranking(ranked, asked, route)

            # The user's history is read from the database.
            await self._answering.send(scope, send, loaded, compute, is_long=True)

    async def _read(self, scope: Scope, receive: Receive) -> tuple[bytes, object]:
        check_json_type(scope)
        content = await self._answering.read(scope, receive)
        return content, await self._answering.parse(content)


def find_predicted_model(scope: Scope) -> str | None:
    """The model in `POST /models/{model}/predict`; None for any other request."""
    path: str = scope["path"]
    if scope["method"] != "POST" or not path.startswith(_PREFIX) or not path.endswith(_SUFFIX):
        return None
    model = path[len(_PREFIX) : -len(_SUFFIX)]
    return model if model and "/" not in model else None


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
        model, route, user = found
        if scope["method"] != route.method:
            raise MethodNotAllowed(scope["method"], scope["path"], [route.method])
        if route.codec == "observations":
            path = f"/models/{model}/observations"
            await self._forward({**scope, "path": path, "raw_path": path.encode()}, receive, send)
        elif route.codec == "training":
            await self._forward(scope, receive, send)
        elif user is not None:
            await self._predictions.answer_ranking(model, route, user, scope, send)
        else:
            await self._predictions.answer_documented(model, route, scope, receive, send)


def describe_prediction_route(app: FastAPI) -> None:
    """Show `POST /models/{model}/predict` in the OpenAPI description; `PredictionRoutes` answers it."""
    app.add_api_route(
        _PATH,
        _describe,
        methods=["POST"],
        name="predict",
        tags=["predictions"],
        summary="Predict with the version that serves, or with one that is asked for",
        response_model=None,
        dependencies=[Depends(PREDICT)],
        openapi_extra=_OPENAPI,
        responses={
            200: {"description": "One prediction and one id a row", "content": {"application/json": _ANSWER}},
            **{status: _problem(text) for status, text in _PROBLEMS.items()},
        },
    )


def _find_version(model: str, body: object) -> int | str | None:
    version = body.get("version") if isinstance(body, dict) else None
    if version is None:
        return None
    if isinstance(version, str) and (version in (PRODUCTION, LATEST) or is_version_name(version)):
        return version
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= LARGEST_NUMBER:
        rule = f"a version's number or name, {PRODUCTION} or {LATEST} is expected"
        raise RequestRejected(model, [Fault("version", show_value(version), rule)])
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
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "The body is not said to be JSON",
    422: "The request does not fit the contract",
    429: "More requests are being answered than are taken on at once",
    500: "The model answered with NaN or infinity",
    503: "There is no version to serve, or the prediction cannot be recorded",
    504: "The model did not answer in time",
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
                        "version": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]},
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
