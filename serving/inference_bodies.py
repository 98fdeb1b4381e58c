"""Requests and answers of the Open Inference Protocol, version 2, without HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from core.contract import Contract
from core.errors import show_value
from serving.answers import Prediction
from serving.binary_tensors import Tensor, read_tensors
from serving.number_arrays import INPUT_NAME, OUTPUT_NAME, build_named, build_tensor, reject

_MAX_ID_CHARS = 1000


@dataclass(frozen=True)
class Wanted:
    """How an answer is wanted: the request's id, and whether the output comes as binary data."""

    request_id: str | None
    is_binary: bool


def describe_inputs(contract: Contract) -> list[dict[str, object]]:
    """The input of a model as metadata shows it: the whole tensor."""
    return [{"name": INPUT_NAME, "datatype": "FP32", "shape": [-1, *contract.input_shape]}]


def read_wanted(contract: Contract, body: object) -> Wanted:
    """What the request says of its answer; raises RequestRejected."""
    if not isinstance(body, dict):
        raise reject(contract, "body", show_value(body), "a JSON object with `inputs` is expected")
    request_id = body.get("id")
    if request_id is not None and (not isinstance(request_id, str) or len(request_id) > _MAX_ID_CHARS):
        raise reject(contract, "id", show_value(request_id), f"text of at most {_MAX_ID_CHARS} characters is expected")
    is_binary = _read_flag(contract, "parameters", body.get("parameters"), "binary_data_output")
    outputs = body.get("outputs")
    if not outputs:
        return Wanted(request_id, is_binary=is_binary)
    if not isinstance(outputs, list):
        raise reject(contract, "outputs", show_value(outputs), "a list of outputs is expected")
    for number, output in enumerate(outputs):
        where = f"outputs[{number}]"
        if not isinstance(output, dict) or output.get("name") != OUTPUT_NAME:
            rule = f"{OUTPUT_NAME} is the only output"
            raise reject(contract, where, show_value(output.get("name") if isinstance(output, dict) else output), rule)
        parameters = output.get("parameters")
        if isinstance(parameters, dict) and (refused := {"classification", "shared_memory_region"} & set(parameters)):
            raise reject(contract, f"{where}.parameters", ", ".join(sorted(refused)), "the output is sent as it is")
        is_binary = _read_flag(contract, f"{where}.parameters", parameters, "binary_data", default=is_binary)
    return Wanted(request_id, is_binary=is_binary)


def decode_inference(contract: Contract, body: object, blob: bytes) -> NDArray[np.float32]:
    """The input of a request: the whole tensor, or for a tabular model one tensor a feature. Raises RequestRejected."""
    tensors = read_tensors(contract, body.get("inputs") if isinstance(body, dict) else None, blob)
    if len(tensors) == 1 and tensors[0].name == INPUT_NAME and INPUT_NAME not in contract.features:
        only = tensors[0]
        if only.numbers is None:
            rule = "the model's numbers are expected; text has its place in an input named after its feature"
            raise reject(contract, INPUT_NAME, "BYTES", rule)
        return build_tensor(contract, only.numbers)
    names = [tensor.name for tensor in tensors]
    if contract.kind != "tabular":
        rule = f"one input {INPUT_NAME} of shape {[-1, *contract.input_shape]} is expected"
        raise reject(contract, "inputs", show_value(names), rule)
    unknown = sorted(set(names) - set(contract.features))
    if unknown or len(set(names)) != len(names):
        rule = f"either {INPUT_NAME} or each of {', '.join(contract.features)} once is expected"
        raise reject(contract, "inputs", show_value(unknown or names), rule)
    return build_named(contract, {tensor.name: _list_cells(contract, tensor) for tensor in tensors})


def encode_inference(prediction: Prediction, wanted: Wanted) -> tuple[bytes, bytes]:
    """The JSON of an answer, and the binary data after it, which is empty where none was asked for.

    A parameter is one text, number or truth value by the specification, so the ids stand in one text.
    """
    outputs = np.ascontiguousarray(prediction.outputs, dtype="<f4")
    blob = outputs.tobytes() if wanted.is_binary else b""
    output: dict[str, object] = {"name": OUTPUT_NAME, "datatype": "FP32", "shape": list(outputs.shape)}
    if wanted.is_binary:
        output["parameters"] = {"binary_data_size": len(blob)}
    else:
        output["data"] = outputs.reshape(-1)
    document: dict[str, object] = {
        "model_name": prediction.model,
        "model_version": str(prediction.version),
        "parameters": {"prediction_ids": ",".join(map(str, prediction.ids))},
        "outputs": [output],
    }
    if wanted.request_id is not None:
        document["id"] = wanted.request_id
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), blob


def _list_cells(contract: Contract, tensor: Tensor) -> list[object]:
    """A feature's cells `(batch,)`, from a tensor `(batch,)` or `(batch, 1)`."""
    if tensor.shape[1:] not in ((), (1,)):
        raise reject(contract, tensor.name, f"the shape {list(tensor.shape)}", "the shape [batch] is expected")
    if tensor.numbers is None:
        return list(tensor.text)
    return list(tensor.numbers.reshape(-1).tolist())


def _read_flag(contract: Contract, where: str, parameters: object, name: str, *, default: bool = False) -> bool:
    if parameters is None:
        return default
    if not isinstance(parameters, Mapping):
        raise reject(contract, where, show_value(parameters), "an object is expected")
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise reject(contract, f"{where}.{name}", show_value(value), "true or false is expected")
    return value
