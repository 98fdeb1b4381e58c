"""The Open Inference Protocol, version 2, under `/v2`: what KServe's and Triton's clients speak, from the data plane.

Source: the Open Inference Protocol's REST specification; Triton's extensions for binary tensors and for the index of
the repository.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version as find_package_version

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from core.contract import Contract
from core.errors import Fault, MillraceError, ModelVersionNotFound, NotFound, RequestRejected, show_value
from core.version_names import LARGEST_NUMBER
from serving.answering import JSON, PREDICT, READ, Answering, PlainRoute
from serving.binary_tensors import BYTES, DTYPES
from serving.data_plane import DataPlane
from serving.follower import Follower
from serving.inference_bodies import decode_inference, describe_inputs, encode_inference, read_wanted
from serving.loading import LoadedVersion
from serving.number_arrays import OUTPUT_NAME
from web.bodies import WrongMediaType, check_json_type
from web.health import HealthCheck
from web.public_routes import PUBLIC_PATHS
from web.request_ids import add_answer_headers, get_request_id

_HEADER_LENGTH = b"inference-header-content-length"
_BINARY = b"application/octet-stream"
_NAME = "millrace"
_MODEL = "/v2/models/{model}"
_VERSION = "/v2/models/{model}/versions/{version}"
_LONGEST_VERSION = len(str(LARGEST_NUMBER))
_LONGEST_LENGTH = 10

LoadChecks = Callable[[], Sequence[HealthCheck]]


class AddressNotFound(NotFound):
    """An address below `/v2` that the protocol, or this part of it, does not have."""

    def __init__(self, path: str) -> None:
        super().__init__(f"There is nothing at {show_value(path, 200)}; models are loaded as the registry says.")


class InferenceProtocol:
    """The protocol's addresses. A model is named as in the registry, a version by its number."""

    def __init__(
        self, follower: Follower, data_plane: DataPlane, answering: Answering, load_checks: LoadChecks
    ) -> None:
        self._follower = follower
        self._data_plane = data_plane
        self._answering = answering
        self._load_checks = load_checks

    def build_routes(self) -> list[PlainRoute]:
        """The routes, with their descriptions; the last one answers every other address below `/v2`."""
        get, post = ["GET"], ["POST"]
        models: list[PlainRoute] = []
        for path, describe in ((_MODEL, _explain_model), (_VERSION, _explain_version)):
            models += [
                _build_route(path, get, _answering(self._describe_metadata), describe, "A model's inputs and output"),
                _build_route(
                    f"{path}/ready", get, _answering(self._describe_model_ready), describe, "Whether a model can answer"
                ),
                _build_route(f"{path}/infer", post, self._answer_infer, describe, "Predictions", **_INFER),
            ]
        return [
            _build_route("/v2", get, _answering(self._describe_server), _explain, "The server and its extensions"),
            _build_route("/v2/health/live", get, _answering(self._describe_live), _explain, "Whether the server turns"),
            _build_route(
                "/v2/health/ready", get, _answering(self._describe_ready), _explain, "Whether the server can answer"
            ),
            _build_route("/v2/repository/index", post, self._answer_index, _explain, "Every model and its state"),
            *models,
            _build_route("/v2/{rest:path}", [*get, *post], _answer_nothing, _explain, "", include_in_schema=False),
        ]

    async def _answer_infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._answering.admission:
            content = await self._answering.read(scope, receive)
            loaded = await self._find(scope)
            with self._data_plane.noting_refusal(loaded, get_request_id(scope)):
                length = _find_header_length(scope, loaded.contract, len(content))
                blob = content[length:]
                body = await self._answering.parse(content[:length])
                wanted = read_wanted(loaded.contract, body)

            def compute() -> bytes:
                prediction = self._data_plane.predict_decoded(
                    loaded, body, lambda contract, given: decode_inference(contract, given, blob), get_request_id(scope)
                )
                encoded, binary = encode_inference(prediction, wanted)
                if wanted.is_binary:
                    add_answer_headers(scope, [(_HEADER_LENGTH, b"%d" % len(encoded))])
                return encoded + binary

            kind = _BINARY if wanted.is_binary else JSON
            await self._answering.send(scope, send, loaded, compute, len(content), kind)

    async def _describe_metadata(self, scope: Scope) -> Response:
        loaded = await self._find(scope)
        outputs = {"name": OUTPUT_NAME, "datatype": "FP32", "shape": [-1, -1]}
        document: dict[str, object] = {
            "name": loaded.model,
            "versions": [str(loaded.version)],
            "platform": "millrace_keras",
            "inputs": describe_inputs(loaded.contract),
            "outputs": [outputs],
            # Instead of the whole tensor a tabular model takes one input for each of these.
            "parameters": {"features": ",".join(loaded.contract.features)},
        }
        return _answer_json(document)

    async def _describe_model_ready(self, scope: Scope) -> Response:
        loaded = await self._find(scope)
        return _answer_json({"name": loaded.model, "ready": True})

    async def _describe_server(self, _: Scope) -> Response:
        document = {
            "name": _NAME,
            "version": find_package_version(_NAME),
            "extensions": ["binary_tensor_data"],
        }
        return _answer_json(document)

    async def _describe_live(self, _: Scope) -> Response:
        return _answer_json({"live": True})

    async def _describe_ready(self, _: Scope) -> Response:
        checks = await run_in_threadpool(self._load_checks)
        is_ready = all(check.state != "failed" for check in checks)
        return _answer_json({"ready": is_ready}, 200 if is_ready else 503)

    async def _answer_index(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._answering.admission:
            content = await self._answering.read(scope, receive)
            body = await self._answering.parse(content) if content else {}
        is_ready_only = isinstance(body, dict) and body.get("ready") is True
        entries = [await self._describe_entry(model) for model in self._follower.load_known_models()]
        shown = [entry for entry in entries if not is_ready_only or entry["state"] == "READY"]
        await _answer_json(shown)(scope, receive, send)

    async def _describe_entry(self, model: str) -> dict[str, object]:
        version = self._follower.find_served_version(model)
        if version is None:
            try:
                version = (await self._answering.load_serving(model)).version
            except MillraceError as error:
                return {"name": model, "version": "", "state": "UNAVAILABLE", "reason": error.sentence}
        return {"name": model, "version": str(version), "state": "READY", "reason": ""}

    async def _find(self, scope: Scope) -> LoadedVersion:
        """The version that the path names, loaded where it is not, or the one that serves."""
        model: str = scope["path_params"]["model"]
        version: str | None = scope["path_params"].get("version")
        if version is None:
            return await self._answering.find_version(scope, model)
        if version.isascii() and version.isdecimal() and len(version) <= _LONGEST_VERSION:
            return await self._answering.find_version(scope, model, int(version))
        serving = await self._answering.load_serving(model)
        raise ModelVersionNotFound(model, version, [str(serving.version)])


def encode_error(status: int, sentence: str) -> tuple[int, bytes]:
    """The protocol's form of an error. What does not fit the model is 400 there, not 422."""
    return 400 if status == 422 else status, orjson.dumps({"error": sentence})


def _find_header_length(scope: Scope, contract: Contract, size: int) -> int:
    """How many bytes of the body are JSON: all, or as many as the binary extension's header says."""
    given = next((value for name, value in scope["headers"] if name == _HEADER_LENGTH), None)
    if given is None:
        check_json_type(scope)
        return size
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.lower() != b"identity":
            raise WrongMediaType(f"{value.decode('latin-1')} (content encoding)", "bodies that are not compressed")
    length = int(given) if given.isdigit() and len(given) <= _LONGEST_LENGTH else -1
    if not 0 < length <= size:
        rule = f"the number of bytes of JSON is expected, of {size} in the body"
        fault = Fault("Inference-Header-Content-Length", show_value(given.decode("latin-1")), rule)
        raise RequestRejected(contract.model, [fault])
    return length


async def _answer_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise AddressNotFound(scope["path"])


def _answering(build: Callable[[Scope], Awaitable[Response]]) -> ASGIApp:
    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        response = await build(scope)
        await response(scope, receive, send)

    return respond


def _answer_json(document: object, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")


def _build_route(
    path: str,
    methods: list[str],
    handler: ASGIApp,
    describe: Callable[..., Awaitable[None]],
    summary: str,
    **more: object,
) -> PlainRoute:
    return PlainRoute(
        path,
        handler,
        describe,
        encode_error,
        # Of what is told to anybody the list has the address.
        None if path in PUBLIC_PATHS else PREDICT if path.endswith("/infer") else READ,
        methods=methods,
        name=f"{methods[0]} {path}",
        tags=["Open Inference Protocol"],
        summary=summary,
        response_model=None,
        **more,
    )


async def _explain() -> None:
    """Version 2 of the protocol."""


async def _explain_model(model: str) -> None:
    """Of the version that serves the model."""


async def _explain_version(model: str, version: int) -> None:
    """Of exactly that version; it is loaded first where it is not."""


_DATATYPES = {"type": "string", "enum": [*DTYPES, BYTES]}
_SHAPE = {"type": "array", "items": {"type": "integer"}}
_PARAMETERS = {"type": "object"}
_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": _SHAPE,
        "datatype": _DATATYPES,
        "data": {"type": "array", "items": {}},
        "parameters": _PARAMETERS,
    },
}
_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
            },
        },
        "parameters": _PARAMETERS,
    },
}
_RESPONSE = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "parameters": {"type": "object", "properties": {"prediction_ids": {"type": "string"}}},
        "outputs": {"type": "array", "items": _TENSOR},
    },
}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_INFER: Mapping[str, object] = {
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _REQUEST},
                "application/octet-stream": {
                    "schema": {"type": "string", "format": "binary", "description": "JSON, then the binary tensors"}
                },
            },
        }
    },
    "responses": {
        200: {"description": "The output and the ids", "content": {"application/json": {"schema": _RESPONSE}}},
        **{
            status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
            for status, text in (
                (400, "The body is not of the protocol, or does not fit the contract"),
                (404, "There is no such model or version"),
                (408, "The body did not arrive in time"),
                (413, "The body is too large"),
                (415, "The content type is not taken"),
                (429, "More requests are being answered than are taken on at once"),
                (500, "The model answered with NaN or infinity"),
                (503, "There is no version to serve, or the prediction cannot be recorded"),
                (504, "The model did not answer in time"),
            )
        },
    },
}
