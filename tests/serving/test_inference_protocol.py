"""The Open Inference Protocol, driven by Triton's client and by requests in KServe's form."""

import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from sqlalchemy import Engine, select
from tritonclient._request import Request
from tritonclient.utils import InferenceServerException

from core.tables.predictions import predictions
from tests.accounts import HEADERS
from tests.serving.running import Served, wait_until
from tests.serving.tables import multiply

WINDOW = [10.0, 20.0, 30.0, 40.0]
ROWS = np.array([[3.0, 4.0], [0.5, -2.0], [7.0, 10.0]], dtype=np.float32)


@pytest.fixture
def client(two_models: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(two_models.address.removeprefix("http://")) as client:
        client.register_plugin(_send_token)
        yield client


def _send_token(request: Request) -> None:
    request.headers.update(HEADERS)


def _build_input(name: str, values: NDArray[Any], datatype: str, *, is_binary: bool) -> triton.InferInput:
    tensor = triton.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=is_binary)
    return tensor


def _infer(served: Served, body: object, path: str = "areas") -> httpx.Response:
    return served.client.post(f"/v2/models/{path}/infer", json=body)


def _build_tensor(**changes: object) -> dict[str, object]:
    return {"name": "inputs", "shape": [3, 2], "datatype": "FP32", "data": ROWS.reshape(-1).tolist()} | changes


# --- Triton's client ---------------------------------------------------------------------------------------------


def test_tritons_client_finds_server_and_models(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.is_model_ready("areas")
    assert client.is_model_ready("prices", "2")
    assert not client.is_model_ready("weather")
    assert not client.is_model_ready("prices", "9")
    metadata = client.get_model_metadata("prices")
    assert metadata["inputs"] == [{"name": "inputs", "datatype": "FP32", "shape": [-1, 4, 1]}]
    assert [output["name"] for output in metadata["outputs"]] == ["outputs"]
    assert metadata["versions"] == ["1"]
    assert client.get_model_metadata("prices", "2")["versions"] == ["2"]
    assert client.get_model_metadata("areas")["parameters"] == {"features": "width,height"}
    index = {entry["name"]: entry for entry in client.get_model_repository_index()}
    assert {name: (entry["version"], entry["state"]) for name, entry in index.items()} == {
        "areas": ("1", "READY"),
        "prices": ("1", "READY"),
    }


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("is_binary_output", [False, True])
def test_tritons_client_gets_predictions(
    client: triton.InferenceServerClient, is_binary: bool, is_binary_output: bool
) -> None:
    wanted = [triton.InferRequestedOutput("outputs", binary_data=is_binary_output)]
    inputs = [_build_input("inputs", ROWS, "FP32", is_binary=is_binary)]
    result = client.infer("areas", inputs, outputs=wanted, request_id="order-7")
    np.testing.assert_array_equal(result.as_numpy("outputs"), multiply(ROWS))
    answer = result.get_response()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("areas", "1", "order-7")
    assert len(set(answer["parameters"]["prediction_ids"].split(","))) == len(ROWS)


def test_tritons_client_gets_the_version_it_asks_for(client: triton.InferenceServerClient) -> None:
    window = np.array(WINDOW, dtype=np.float32).reshape(1, 4, 1)
    inputs = [_build_input("inputs", window, "FP32", is_binary=True)]
    for version, expected in (("", 25.0), ("1", 25.0), ("2", 50.0)):
        # Without `outputs` this client asks for binary data by the request's own parameter.
        result = client.infer("prices", inputs, model_version=version)
        np.testing.assert_array_equal(result.as_numpy("outputs"), [[expected]])
    with pytest.raises(InferenceServerException, match="no version '9'"):
        client.infer("prices", inputs, model_version="9")
    with pytest.raises(InferenceServerException, match="no version 'newest'"):
        client.infer("prices", inputs, model_version="newest")


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        ("BOOL", np.bool_),
        *((f"INT{bits}", np.dtype(f"int{bits}")) for bits in (8, 16, 32, 64)),
        *((f"UINT{bits}", np.dtype(f"uint{bits}")) for bits in (8, 16, 32, 64)),
        *((f"FP{bits}", np.dtype(f"float{bits}")) for bits in (16, 32, 64)),
    ],
)
def test_numbers_of_every_datatype_are_taken_also_one_tensor_a_feature(
    two_models: Served, client: triton.InferenceServerClient, datatype: str, dtype: type[np.generic], is_binary: bool
) -> None:
    widths, heights = np.array([1, 0, 1], dtype=dtype), np.array([[0], [1], [1]], dtype=dtype)
    expected = multiply(np.array([[1, 0], [0, 1], [1, 1]], np.float32))
    if datatype == "FP16" and not is_binary:
        # Triton's client sends this one as binary data only.
        tensors = [
            {"name": "height", "shape": [3, 1], "datatype": "FP16", "data": heights.tolist()},
            {"name": "width", "shape": [3], "datatype": "FP16", "data": widths.tolist()},
        ]
        answer = _infer(two_models, {"inputs": tensors}).json()
        np.testing.assert_array_equal(np.reshape(answer["outputs"][0]["data"], (3, 2)), expected)
        return
    inputs = [
        _build_input("height", heights, datatype, is_binary=is_binary),
        _build_input("width", widths, datatype, is_binary=is_binary),
    ]
    np.testing.assert_array_equal(client.infer("areas", inputs).as_numpy("outputs"), expected)


@pytest.mark.parametrize("is_binary", [False, True])
def test_text_for_a_number_is_refused_by_its_name(client: triton.InferenceServerClient, is_binary: bool) -> None:
    text = np.array(["wide", "é"], dtype=np.object_)
    numbers = np.array([1.0, 2.0])
    inputs = [
        _build_input("width", text, "BYTES", is_binary=is_binary),
        _build_input("height", numbers, "FP64", is_binary=False),
    ]
    with pytest.raises(InferenceServerException, match="width: 'wide' is not allowed, a finite number"):
        client.infer("areas", inputs)
    whole = [_build_input("inputs", text.reshape(1, 2), "BYTES", is_binary=is_binary)]
    with pytest.raises(InferenceServerException, match="inputs: BYTES is not allowed"):
        client.infer("areas", whole)


# --- requests in KServe's form, and what is wrong with them --------------------------------------------------------


def test_request_in_kserves_form_is_answered_in_its_form(
    two_models: Served,
) -> None:
    body = {
        "id": "7",
        "parameters": {"sequence_id": 0},
        "inputs": [_build_tensor(data=ROWS.tolist(), parameters={"content_type": "np"})],
        "outputs": [{"name": "outputs"}],
    }
    response = _infer(two_models, body)
    answer = response.json()
    assert answer.pop("parameters").keys() == {"prediction_ids"}
    assert answer == {
        "id": "7",
        "model_name": "areas",
        "model_version": "1",
        "outputs": [
            {"name": "outputs", "datatype": "FP32", "shape": [3, 2], "data": multiply(ROWS).reshape(-1).tolist()}
        ],
    }
    assert (response.headers["X-Model-Name"], response.headers["X-Model-Version"]) == ("areas", "1")
    assert response.headers["X-Request-ID"]
    assert "id" not in _infer(two_models, {"inputs": [_build_tensor()]}).json()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ([], "body: []"),
        ({}, "inputs: null"),
        ({"inputs": []}, "inputs: []"),
        ({"inputs": [7]}, "inputs[0]: 7"),
        ({"inputs": [_build_tensor(name=3)]}, "inputs[0].name: 3"),
        ({"inputs": [_build_tensor(datatype="BF16")]}, "inputs[0].datatype: 'BF16'"),
        ({"inputs": [_build_tensor(shape=[3, True])]}, "inputs[0].shape"),
        ({"inputs": [_build_tensor(shape=[3, -2])]}, "inputs[0].shape"),
        ({"inputs": [_build_tensor(shape=[2, 2])]}, "inputs[0].data: [6] values"),
        ({"inputs": [_build_tensor(shape=[2, 3])]}, "inputs: [2, 3]"),
        ({"inputs": [_build_tensor(shape=[0, 2], data=[])]}, "inputs: 0 rows"),
        ({"inputs": [_build_tensor(data="text")]}, "inputs[0].data: 'text'"),
        ({"inputs": [_build_tensor(data=[[3.0, 4.0], [5.0]])]}, "inputs[0].data[1]: a list of 1"),
        ({"inputs": [_build_tensor(data=[1, 2, 3, 4, 5, "6"])]}, "inputs[0].data[5]: '6'"),
        ({"inputs": [_build_tensor(data=[1, 2, 3, 4, 5, True])]}, "inputs[0].data[5]: true"),
        ({"inputs": [_build_tensor(datatype="INT8", data=[1, 2, 300, 4, 5, 6])]}, "inputs[0].data[2]: 300"),
        ({"inputs": [_build_tensor(datatype="UINT64", data=[1, 2, -3, 4, 5, 6])]}, "inputs[0].data[2]: -3"),
        ({"inputs": [_build_tensor(datatype="INT32", data=[1, 2, 3.5, 4, 5, 6])]}, "inputs[0].data[2]: 3.5"),
        ({"inputs": [_build_tensor(datatype="FP64", data=[1, 2, 1e39, 4, 5, 6])]}, "inputs[1] width: Infinity"),
        ({"inputs": [_build_tensor(data=[1, 2, 3, 10.5, 5, 6])]}, "inputs[1] height: 10.5"),
        ({"inputs": [_build_tensor(name="speed")]}, "inputs: ['speed']"),
        ({"inputs": [_build_tensor(name="width", shape=[1], data=[1])]}, "height: nothing"),
        ({"inputs": [_build_tensor(name="width", shape=[3], data=[1, 2, 3])] * 2}, "each of width, height once"),
        (
            {
                "inputs": [
                    _build_tensor(name="width", shape=[3], data=[1, 2, 3]),
                    _build_tensor(name="height", shape=[2], data=[1, 2]),
                ]
            },
            "height: 2 rows",
        ),
        ({"inputs": [_build_tensor(parameters={"shared_memory_region": "a"})]}, "shared_memory_region"),
        ({"inputs": [_build_tensor(parameters=[])], "id": 7}, "id: 7"),
        ({"inputs": [_build_tensor()], "outputs": [{"name": "scores"}]}, "outputs[0]: 'scores'"),
        ({"inputs": [_build_tensor()], "outputs": {"name": "outputs"}}, "outputs: {'name': 'outputs'}"),
        (
            {"inputs": [_build_tensor()], "outputs": [{"name": "outputs", "parameters": {"classification": 2}}]},
            "classification",
        ),
        ({"inputs": [_build_tensor()], "parameters": {"binary_data_output": 1}}, "binary_data_output: 1"),
        ({"inputs": [_build_tensor(parameters={"binary_data_size": 4})]}, "binary_data_size: 4"),
    ],
)
def test_request_that_does_not_fit_is_refused_by_place_in_the_protocols_shape(
    two_models: Served, body: object, named: str
) -> None:
    response = _infer(two_models, body)
    assert response.status_code == 400, response.text
    assert response.json().keys() == {"error"}
    assert named in response.json()["error"]


def _post_binary(served: Served, document: object, blob: bytes, length: int | str | None = None) -> httpx.Response:
    encoded = json.dumps(document).encode()
    headers = {"Inference-Header-Content-Length": str(len(encoded) if length is None else length)}
    return served.client.post("/v2/models/areas/infer", content=encoded + blob, headers=headers)


@pytest.mark.parametrize(
    ("parameters", "blob", "length", "named"),
    [
        ({"binary_data_size": 24}, ROWS.tobytes() + b"x", None, "25 bytes after the JSON"),
        ({"binary_data_size": 24}, ROWS.tobytes()[:-1], None, "binary_data_size: 24"),
        ({"binary_data_size": 20}, ROWS.tobytes()[:20], None, "20 bytes"),
        ({"binary_data_size": -1}, b"", None, "binary_data_size: -1"),
        ({"binary_data_size": 24}, ROWS.tobytes(), 10_000, "Inference-Header-Content-Length: '10000'"),
        ({"binary_data_size": 24}, ROWS.tobytes(), "-5", "Inference-Header-Content-Length: '-5'"),
        ({"binary_data_size": 24}, ROWS.tobytes(), 0, "Inference-Header-Content-Length: '0'"),
        ({"binary_data_size": 24}, ROWS.tobytes(), 5, "not JSON"),
    ],
)
def test_binary_data_of_another_size_is_refused(
    two_models: Served, parameters: object, blob: bytes, length: int | str | None, named: str
) -> None:
    tensor = {"name": "inputs", "shape": [3, 2], "datatype": "FP32", "parameters": parameters}
    response = _post_binary(two_models, {"inputs": [tensor]}, blob, length)
    assert response.status_code == 400
    assert named in response.json()["error"]


def test_binary_text_with_wrong_lengths_is_refused(two_models: Served) -> None:
    for blob in (struct.pack("<I", 2**32 - 1) + b"a", struct.pack("<I", 1) + b"\xff", b"\x01"):
        tensor = {"name": "width", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(blob)}}
        response = _post_binary(two_models, {"inputs": [tensor]}, blob)
        assert response.status_code == 400
        assert "inputs[0]" in response.json()["error"]


def test_every_error_has_the_protocols_shape(two_models: Served) -> None:
    missing = _infer(two_models, {"inputs": [_build_tensor()]}, "weather")
    assert (missing.status_code, "no model 'weather'" in missing.json()["error"]) == (404, True)
    malformed = two_models.client.post("/v2/models/areas/infer", content="{")
    assert (malformed.status_code, malformed.json().keys()) == (400, {"error"})
    other_type = two_models.client.post("/v2/models/areas/infer", content="{}", headers={"Content-Type": "text/csv"})
    assert (other_type.status_code, other_type.json().keys()) == (415, {"error"})
    unknown = two_models.client.get("/v2/models/areas/config")
    assert (unknown.status_code, unknown.json().keys()) == (404, {"error"})
    assert unknown.headers["X-Request-ID"]


def test_predictions_and_refusals_are_recorded_under_their_ids(served: Served, own_engine: Engine) -> None:
    window = {"name": "inputs", "shape": [2, 4, 1], "datatype": "FP32", "data": [*WINDOW, *WINDOW]}
    answer = _infer(served, {"inputs": [window]}, "prices").json()
    assert _infer(served, {"inputs": [window | {"shape": [1, 8, 1]}]}, "prices").status_code == 400

    def load_rows() -> list[tuple[bool, str]]:
        with own_engine.connect() as connection:
            return [(row.is_refusal, str(row.id)) for row in connection.execute(select(predictions))]

    wait_until(lambda: len(load_rows()) == 3, 60.0)
    assert {row_id for is_refusal, row_id in load_rows() if not is_refusal} == set(
        answer["parameters"]["prediction_ids"].split(",")
    )
