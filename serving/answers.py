"""Answers of the prediction routes: ours, and those that a contract documents."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import orjson
from numpy.typing import NDArray

from core.contract import Contract, Route

_VERSION_FIELDS = (
    "$model",
    "$version",
    "$version_name",
    "$model_uri",
    "$variant",
    "$features_used",
    "$description",
    "$steps",
)
_PREDICTION_FIELDS = ("$prediction", "$prediction_id")
_CLASS_FIELDS = ("$class", "$probabilities")
_RANKING_FIELDS = ("$user", "$items", "$source", "$history", "$prediction_id")


@dataclass(slots=True, eq=False)
class Prediction:
    """What one request is answered with: `outputs` is `(batch, outputs)` in the target's unit, one id a row."""

    model: str
    version: int
    contract: Contract
    outputs: NDArray[np.float32]
    ids: list[UUID]


def find_unknown_fields(contract: Contract, route: Route) -> list[str]:
    """The `$` fields in the route's answer that nothing of the contract's model fills."""
    known = set(_VERSION_FIELDS)
    if route.codec == "history":
        known |= {*_RANKING_FIELDS}
    elif route.codec is not None:
        known |= {*_PREDICTION_FIELDS, *(() if contract.task == "regression" else _CLASS_FIELDS)}
    values = [value for value in route.answer.values() if isinstance(value, str) and value.startswith("$")]
    return sorted(set(values) - known)


def encode_prediction(prediction: Prediction) -> bytes:
    """The JSON answer of our own route. One output a row is a number, several are a list, items a list of objects."""
    outputs = prediction.outputs
    predictions: object = np.ascontiguousarray(outputs[:, 0] if outputs.shape[1] == 1 else outputs)
    if prediction.contract.ranking is not None:
        predictions = [_name_answer(prediction.contract, row) for row in outputs]
    document = {
        "model": prediction.model,
        "version": prediction.version,
        "predictions": predictions,
        "prediction_ids": prediction.ids,
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _name_answer(contract: Contract, row: NDArray[np.float32]) -> list[dict[str, object]]:
    codes, scores = np.split(row, 2)
    return name_items(contract, codes[codes > 0].astype(np.int64), scores[codes > 0])


def name_items(contract: Contract, codes: NDArray[np.int64], scores: NDArray[np.float32]) -> list[dict[str, object]]:
    """The items as clients know them, each with its score."""
    column = contract.column(contract.features[0])
    names = contract.vocabularies[column.name]
    return [
        {column.name: int(names[code - 1]) if column.dtype == "integer" else names[code - 1], "score": float(score)}
        for code, score in zip(codes, scores, strict=True)
    ]


def encode_documented(prediction: Prediction, route: Route) -> bytes:
    """The JSON answer of a documented route, for the one row that it takes."""
    row = prediction.outputs[0]
    fields = describe_version(prediction.contract, prediction.version)
    fields |= {"$prediction": row[0] if len(row) == 1 else row, "$prediction_id": prediction.ids[0]}
    if prediction.contract.task != "regression":
        probabilities = _name_probabilities(prediction.contract, row)
        fields |= {"$probabilities": probabilities, "$class": max(probabilities, key=lambda name: probabilities[name])}
    return fill(route, fields)


def encode_described(contract: Contract, version: int, route: Route) -> bytes:
    """The JSON answer of a documented route that tells of the version and predicts nothing."""
    return fill(route, describe_version(contract, version))


def describe_version(contract: Contract, version: int) -> dict[str, object]:
    """The `$` fields that tell of a version."""
    return {
        "$model": contract.model,
        "$version": version,
        "$version_name": contract.version_name or str(version),
        "$model_uri": f"models:/{contract.model}/{version}",
        "$variant": contract.variant,
        "$features_used": contract.features,
        "$description": contract.description,
        "$steps": contract.steps,
    }


def _name_probabilities(contract: Contract, row: NDArray[np.float32]) -> dict[str, float]:
    """The probability of each class by its name; of two classes without names `0` and `1`."""
    values = [float(value) for value in row]
    if contract.task == "binary":
        values = [1.0 - values[0], values[0]]
    return dict(zip(contract.classes or ("0", "1"), values, strict=True))


def fill(route: Route, fields: Mapping[str, object]) -> bytes:
    """The route's answer as JSON, with its `$` fields filled in."""
    document = {
        name: fields[value] if isinstance(value, str) and value.startswith("$") else value
        for name, value in route.answer.items()
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
