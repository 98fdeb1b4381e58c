"""Kind `tabular`: rows of numbers and categories -> codes and numbers, parts by time or by hash, simple baselines.

Text becomes a code by the contract's vocabularies, which are learnt from the training part; 0 stands for what is
absent or was not seen there. Absent numbers stay NaN and are imputed inside the graph.
"""

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from core.contract import MAX_CATEGORIES, Column, Contract
from core.data_errors import SnapshotRejected
from core.errors import show_value
from training.parts import (
    Columns,
    FloatArray,
    Mask,
    Part,
    Parts,
    check_parts,
    cut_by_hash,
    cut_by_time,
    find_borders,
    place_keys,
    refuse_parts,
)
from workloads.declaration import SplitPolicy

MEAN, LINEAR, PRIOR, LOGISTIC = "mean", "linear_regression", "prior", "logistic_regression"
_MOST_ITERATIONS = 2_000


def learn_contract(contract: Contract, columns: Columns, policy: SplitPolicy) -> Contract:
    """The contract with the vocabularies, and a regression target's mean and deviation, of the training part alone.

    Of a column with more than 10,000 categories the most frequent are kept.
    """
    chosen = _find_training_rows(contract, columns, policy)
    vocabularies = {
        name: _learn_vocabulary(columns[name][chosen])
        for name in contract.features
        if contract.column(name).dtype == "text"
    }
    learnt: dict[str, object] = {"vocabularies": vocabularies}
    if contract.task == "regression":
        target = columns[contract.target][chosen].astype(np.float64)
        learnt |= {"target_mean": float(target.mean()), "target_deviation": float(target.std())}
    return contract.model_copy(update=learnt)


def build_part(contract: Contract, columns: Columns) -> Part:
    """Every row, in the order of its time where it has one. Raises SnapshotRejected for a class that is not known."""
    inputs = np.stack([_encode(contract, contract.column(name), columns[name]) for name in contract.features], axis=1)
    times = None if contract.key.time is None else columns[contract.key.time].astype("datetime64[us]")
    part = Part(
        inputs=inputs,
        targets=_build_targets(contract, columns[contract.target]),
        keys=build_keys(contract, columns),
        times=times,
        ends=times,
        entities=None if contract.key.entity is None else columns[contract.key.entity].astype(np.str_),
    )
    return part if times is None else part.take(np.argsort(times, kind="stable"))


def split_columns(contract: Contract, columns: Columns, policy: SplitPolicy) -> Parts:
    """Cut by time where rows have one, at the same time for all entities, else by the hash of the key.

    Raises SnapshotRejected if a part would be empty.
    """
    part = build_part(contract, columns)
    what = f"{part.rows} rows"
    if part.times is None:
        return check_parts(contract, cut_by_hash(part, policy), what)
    borders = find_borders(part.times, policy.validation_share, policy.holdout_share)
    if borders is None:
        raise refuse_parts(contract, what)
    return check_parts(contract, cut_by_time(part, *borders), what)


def predict_baselines(contract: Contract, train: Part, part: Part) -> Mapping[str, FloatArray]:
    """Predictions `(rows, outputs)` for `part`: mean and linear regression, or rate of each class and logistic one.

    The logistic regression is left out where the training part has one class alone. Source: scikit-learn.
    """
    constant = np.broadcast_to(train.targets.mean(axis=0), part.targets.shape).copy()
    if contract.task == "regression":
        if not part.rows:
            return {MEAN: constant, LINEAR: constant}
        linear = make_pipeline(_build_encoder(contract), LinearRegression()).fit(train.inputs, train.targets[:, 0])
        return {MEAN: constant, LINEAR: np.asarray(linear.predict(part.inputs), dtype=np.float64)[:, None]}
    classes = _list_classes(train.targets)
    if len(np.unique(classes)) < 2 or not part.rows:
        return {PRIOR: constant}
    logistic = make_pipeline(_build_encoder(contract), LogisticRegression(max_iter=_MOST_ITERATIONS))
    found = np.asarray(logistic.fit(train.inputs, classes).predict_proba(part.inputs), dtype=np.float64)
    if contract.task == "binary":
        return {PRIOR: constant, LOGISTIC: found[:, 1:]}
    spread = np.zeros(part.targets.shape)
    spread[:, logistic.classes_] = found
    return {PRIOR: constant, LOGISTIC: spread}


def build_keys(contract: Contract, columns: Columns) -> NDArray[np.str_]:
    """The key of each row `(rows,)`: entity and time, the id, or every value that is there with its column's name."""
    key = contract.key
    if key.time is not None:
        times = np.datetime_as_string(columns[key.time].astype("datetime64[us]"))
        return (
            times if key.entity is None else np.char.add(np.char.add(columns[key.entity].astype(np.str_), "|"), times)
        )
    if key.id is not None:
        return columns[key.id].astype(np.str_)
    names = [column.name for column in contract.columns if column.name in columns]
    cells = [[_show(value) for value in columns[name].tolist()] for name in names]
    rows = (
        "|".join(f"{name}={text}" for name, text in zip(names, row, strict=True) if text)
        for row in zip(*cells, strict=True)
    )
    return np.array(list(rows), dtype=np.str_)


def _find_training_rows(contract: Contract, columns: Columns, policy: SplitPolicy) -> Mask:
    if contract.key.time is None:
        return np.asarray(
            place_keys(build_keys(contract, columns), policy) >= policy.holdout_share + policy.validation_share
        )
    times = columns[contract.key.time].astype("datetime64[us]")
    borders = find_borders(times, policy.validation_share, policy.holdout_share)
    if borders is None:
        raise refuse_parts(contract, f"{len(times)} rows")
    return np.asarray(times < borders[0])


def _learn_vocabulary(values: NDArray[np.generic]) -> tuple[str, ...]:
    counts = Counter(str(value) for value in values.tolist() if value is not None)
    return tuple(sorted(name for name, _ in counts.most_common(MAX_CATEGORIES)))


def _encode(contract: Contract, column: Column, values: NDArray[np.generic]) -> NDArray[np.float32]:
    if column.dtype == "text":
        codes = contract.codes[column.name]
        return np.array([codes.get(value, 0) for value in values.tolist()], dtype=np.float32)
    if values.dtype == object:
        # Booleans, some of which are absent.
        return np.array([np.nan if value is None else float(value) for value in values.tolist()], dtype=np.float32)
    return values.astype(np.float32)


def _build_targets(contract: Contract, values: NDArray[np.generic]) -> FloatArray:
    if not contract.classes:
        return values.astype(np.float64)[:, None]
    places = {name: place for place, name in enumerate(contract.classes)}
    names = [str(value) for value in values.tolist()]
    unknown = sorted(set(names) - set(places))
    if unknown:
        raise SnapshotRejected(
            contract.model,
            f"{contract.target!r} has the value {show_value(unknown[0])}, which is none of its classes "
            f"{', '.join(contract.classes)}",
        )
    found = np.array([places[name] for name in names], dtype=np.int64)
    return found.astype(np.float64)[:, None] if contract.task == "binary" else np.eye(len(places))[found]


def _build_encoder(contract: Contract) -> BaseEstimator:
    """The inputs as a linear model takes them: categories one by one, numbers imputed and of unit deviation."""
    encoders = []
    for place, name in enumerate(contract.features):
        column = contract.column(name)
        if column.dtype == "text":
            codes = np.arange(len(contract.vocabularies[name]) + 1, dtype=np.float32)
            encoder = OneHotEncoder(categories=[codes])
        else:
            encoder = make_pipeline(
                SimpleImputer(strategy=column.imputation or "mean", keep_empty_features=True), StandardScaler()
            )
        encoders.append((f"{place}", encoder, [place]))
    return ColumnTransformer(encoders)


def _list_classes(targets: FloatArray) -> NDArray[np.int64]:
    places = targets[:, 0] if targets.shape[1] == 1 else targets.argmax(axis=1)
    return np.asarray(places, dtype=np.int64)


def _show(value: object) -> str:
    """A value as its key has it; nothing for an absent one."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    # An integer column comes as floats where some of its values are absent.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
