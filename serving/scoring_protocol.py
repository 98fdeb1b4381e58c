"""MLflow's scoring protocol: what `mlflow models serve` answers, from the data plane.

Its own clients are told a host and a port and ask for `/invocations` there: which model that is, where there are
several, is a setting. A caller that can send headers names the model in X-Model-Name.
"""

from importlib.metadata import version as find_package_version

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from core.contract import Contract
from core.errors import InvalidInput, Unavailable
from serving.answering import PREDICT, READ, Answering, PlainRoute
from serving.answers import Prediction
from serving.data_plane import DataPlane, Decode
from serving.follower import Follower
from serving.number_arrays import reject
from serving.scoring_bodies import decode_csv, decode_scoring
from web.bodies import WrongMediaType
from web.public_routes import PUBLIC_PATHS
from web.request_ids import get_request_id

_MODEL_HEADER = b"x-model-name"
_CSV, _JSON = "text/csv", "application/json"
_TAKEN = f"{_JSON} or {_CSV}, in UTF-8"
# Codes of MLflow's errors; any other status is BAD_REQUEST below 500 and INTERNAL_ERROR from there on.
_CODES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    429: "REQUEST_LIMIT_EXCEEDED",
    503: "TEMPORARILY_UNAVAILABLE",
}


class ModelNotChosen(InvalidInput):
    """Several models are served, and the request does not say which of them is to answer."""

    def __init__(self, models: list[str]) -> None:
        super().__init__(
            f"{len(models)} models are served here ({', '.join(models[:20])}): ask at /models/<name>/invocations, name "
            "one in the header X-Model-Name, or set MILLRACE_INVOCATIONS_MODEL."
        )


class NothingServed(Unavailable):
    """No model has a version to serve."""

    def __init__(self) -> None:
        super().__init__("No model has a version to serve yet; `millrace status` shows what is running.")


class ScoringProtocol:
    """The protocol's four addresses, for one model of the path or for the one that `/invocations` stands for."""

    def __init__(
        self, follower: Follower, data_plane: DataPlane, answering: Answering, *, default_model: str | None
    ) -> None:
        self._follower = follower
        self._data_plane = data_plane
        self._default_model = default_model
        self._answering = answering

    def build_routes(self) -> list[PlainRoute]:
        """The routes, with their descriptions."""
        return [
            self._build_route(f"{prefix}{path}", method, handler, summary, where)
            for prefix, where in (
                ("", "of the model that /invocations stands for"),
                ("/models/{model}", "of one model"),
            )
            for path, method, handler, summary in (
                ("/invocations", "POST", self._answer_invocations, "MLflow's scoring protocol: predictions"),
                ("/ping", "GET", self._answer_ping, "MLflow's scoring protocol: whether it can answer"),
                ("/health", "GET", self._answer_ping, "MLflow's scoring protocol: the same as ping"),
                ("/version", "GET", self._answer_version, "MLflow's scoring protocol: MLflow's version"),
            )
        ]

    def _build_route(self, path: str, method: str, handler: ASGIApp, summary: str, where: str) -> PlainRoute:
        described = {"openapi_extra": _OPENAPI, "responses": _RESPONSES} if method == "POST" else {}
        return PlainRoute(
            path,
            handler,
            _describe_model if "{model}" in path else _describe,
            encode_error,
            None if path in PUBLIC_PATHS else PREDICT if method == "POST" else READ,
            methods=[method],
            name=f"{method} {path}",
            tags=["MLflow's scoring protocol"],
            summary=f"{summary} {where}",
            response_model=None,
            **described,
        )

    async def _answer_invocations(self, scope: Scope, receive: Receive, send: Send) -> None:
        media_type = _find_media_type(scope)
        with self._answering.admission:
            content = await self._answering.read(scope, receive)
            loaded = await self._answering.find_version(scope, self._find_model(scope))
            decode: Decode = _decode_csv_body if media_type == _CSV else decode_scoring
            body = await self._answering.parse(content) if media_type == _JSON else content

            def compute() -> bytes:
                return encode_predictions(self._data_plane.predict_decoded(loaded, body, decode, get_request_id(scope)))

            await self._answering.send(scope, send, loaded, compute, len(content))

    async def _answer_ping(self, scope: Scope, receive: Receive, send: Send) -> None:
        """200 where an invocation could be answered, else 404, which is how MLflow says that it has no model."""
        try:
            models = [self._find_model(scope)]
        except (ModelNotChosen, NothingServed):
            models = self._find_served()
        status = 200 if any(self._follower.find_served_version(model) for model in models) else 404
        await Response("\n", status, media_type=_JSON)(scope, receive, send)

    async def _answer_version(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Response(find_package_version("mlflow-skinny"), media_type=_JSON)(scope, receive, send)

    def _find_model(self, scope: Scope) -> str:
        """The model that the path, the header or the setting names, or the only one that is served."""
        named: str | None = scope["path_params"].get("model")
        if named is None:
            header = next((value for name, value in scope["headers"] if name == _MODEL_HEADER), None)
            named = header.decode("latin-1") if header is not None else self._default_model
        if named is not None:
            return named
        served = self._find_served()
        if not served:
            raise NothingServed
        if len(served) > 1:
            raise ModelNotChosen(served)
        return served[0]

    def _find_served(self) -> list[str]:
        return [model for model in self._follower.load_known_models() if self._follower.find_served_version(model)]


def encode_predictions(prediction: Prediction) -> bytes:
    """The protocol's answer: a list of outputs a row, as MLflow answers a tensor; ids beside them, as its metadata."""
    document = {"predictions": np.ascontiguousarray(prediction.outputs), "prediction_ids": prediction.ids}
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_error(status: int, sentence: str) -> tuple[int, bytes]:
    """MLflow's form of an error. What does not fit the model is 400 there, not 422."""
    status = 400 if status == 422 else status
    code = _CODES.get(status, "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR")
    return status, orjson.dumps({"error_code": code, "message": sentence})


def _find_media_type(scope: Scope) -> str:
    """JSON or CSV, in UTF-8; any other type, charset or parameter is refused, as MLflow's server does."""
    headers = {name: value for name, value in scope["headers"] if name in (b"content-type", b"content-encoding")}
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise WrongMediaType(f"{headers[b'content-encoding'].decode('latin-1')} (content encoding)", _TAKEN)
    given = headers.get(b"content-type", _JSON.encode()).decode("latin-1")
    media_type, *parameters = (part.strip() for part in given.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() != "charset" or value.strip().strip('"').lower() != "utf-8":
            raise WrongMediaType(given, _TAKEN)
    if media_type.lower() not in (_CSV, _JSON):
        raise WrongMediaType(given, _TAKEN)
    return str(media_type.lower())


def _decode_csv_body(contract: Contract, body: object) -> NDArray[np.float32]:
    try:
        text = body.decode("utf-8-sig") if isinstance(body, bytes) else str(body)
    except UnicodeDecodeError as error:
        raise reject(contract, "body", f"byte {error.start}", "text in UTF-8 is expected") from None
    return decode_csv(contract, text)


async def _describe() -> None:
    """For the model of header X-Model-Name, or of setting MILLRACE_INVOCATIONS_MODEL, or the only one served."""


async def _describe_model(model: str) -> None:
    """For one model by its name."""


_TABLE = {
    "type": "object",
    "required": ["data"],
    "properties": {"columns": {"type": "array"}, "data": {"type": "array"}},
}
_OPENAPI = {
    "requestBody": {
        "required": True,
        "content": {
            _JSON: {
                "schema": {
                    "type": "object",
                    "description": "Exactly one of these members",
                    "properties": {
                        "dataframe_split": _TABLE,
                        "dataframe_records": {"type": "array", "items": {"type": "object"}},
                        "instances": {"type": "array", "items": {}},
                        "inputs": {"anyOf": [{"type": "array", "items": {}}, {"type": "object"}]},
                    },
                }
            },
            _CSV: {"schema": {"type": "string", "description": "A heading with the features' names, then rows"}},
        },
    }
}
_ANSWER = {
    "type": "object",
    "required": ["predictions"],
    "properties": {
        "predictions": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
        "prediction_ids": {"type": "array", "items": {"type": "string", "format": "uuid"}},
    },
}
_ERROR = {
    "type": "object",
    "required": ["error_code", "message"],
    "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
}
_RESPONSES: dict[int | str, dict[str, object]] = {
    200: {"description": "The outputs of each row", "content": {_JSON: {"schema": _ANSWER}}},
    **{
        status: {"description": text, "content": {_JSON: {"schema": _ERROR}}}
        for status, text in (
            (400, "The body is not of the protocol, or does not fit the contract"),
            (404, "There is no such model"),
            (408, "The body did not arrive in time"),
            (413, "The body is too large"),
            (415, "The content type is not JSON or CSV in UTF-8"),
            (429, "More requests are being answered than are taken on at once"),
            (500, "The model answered with NaN or infinity"),
            (503, "There is no version to serve, or the prediction cannot be recorded"),
            (504, "The model did not answer in time"),
        )
    },
}
