"""Answers of the prediction routes: ours, and those that a contract documents."""

from dataclasses import dataclass
from uuid import UUID

import numpy as np
import orjson
from numpy.typing import NDArray

from core.contract import Route

_FIELDS = ("$prediction", "$model_uri", "$steps", "$model", "$version", "$prediction_id")


@dataclass(frozen=True)
class Prediction:
    """What one request is answered with: `outputs` is `(batch, outputs)` in the target's unit, one id a row."""

    model: str
    version: int
    steps: int
    outputs: NDArray[np.float32]
    ids: list[UUID]


def find_unknown_fields(route: Route) -> list[str]:
    """The `$` fields in the route's answer that no prediction fills."""
    values = [value for value in route.answer.values() if isinstance(value, str) and value.startswith("$")]
    return sorted(set(values) - set(_FIELDS))


def encode_prediction(prediction: Prediction) -> bytes:
    """The JSON answer of our own route. One output a row is a number, several are a list."""
    outputs = prediction.outputs
    document = {
        "model": prediction.model,
        "version": prediction.version,
        "predictions": np.ascontiguousarray(outputs[:, 0] if outputs.shape[1] == 1 else outputs),
        "prediction_ids": prediction.ids,
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_documented(prediction: Prediction, route: Route) -> bytes:
    """The JSON answer of a documented route, for the one row that it takes."""
    row = prediction.outputs[0]
    fields: dict[str, object] = {
        "$prediction": row[0] if len(row) == 1 else row,
        "$model_uri": f"models:/{prediction.model}/{prediction.version}",
        "$steps": prediction.steps,
        "$model": prediction.model,
        "$version": prediction.version,
        "$prediction_id": prediction.ids[0],
    }
    document = {
        name: fields[value] if isinstance(value, str) and value.startswith("$") else value
        for name, value in route.answer.items()
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
