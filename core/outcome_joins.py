"""Predictions and their outcomes, joined once: in the transaction that stores whichever of the two comes second.

An outcome was sent as one, or is an observation under the key that was predicted. Each join is one statement that
starts from what is new and finds the rest by an index, whatever the planner knows of the tables (a LATERAL with OFFSET
is not turned round); the same join again changes nothing. Both sides hold a lock of the model from before their join to
their end, so that the later one sees what the earlier one stored.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal
from sqlalchemy import Connection

from core.contract import Contract
from core.names import name_observations

SHIPPED = "shipped"
"""The temporary table of the predictions that a transaction ships."""


def lock_outcomes(connection: Connection, model: str, *, is_shared: bool = False) -> None:
    """Hold the model's joins until the transaction ends: shippers of predictions together, every other alone."""
    function = SQL("pg_advisory_xact_lock_shared" if is_shared else "pg_advisory_xact_lock")
    _get_raw(connection).execute(
        SQL("SELECT {}(hashtextextended({}, 0))").format(function, Literal(f"outcomes:{model}"))
    )


def join_outcomes(connection: Connection, contract: Contract, outcome_ids: Sequence[int]) -> int:
    """Join these outcomes with the predictions that are there; how many of them have one. Call it under the lock."""
    if contract.kind == "ranking" or not outcome_ids:
        return 0
    ids = Literal(list(outcome_ids))
    joined = 0
    for own, candidate, steps in _list_matches(contract):
        joined += _store_sent(
            connection,
            contract,
            SQL(
                "unnest({ids}) AS given (id)"
                " CROSS JOIN LATERAL (SELECT * FROM outcomes WHERE outcomes.id = given.id OFFSET 0) AS outcome"
                " CROSS JOIN LATERAL {steps} AS steps (ahead)"
                " CROSS JOIN LATERAL (SELECT * FROM predictions AS prediction"
                "  WHERE {own} AND {candidate} AND NOT prediction.is_refusal OFFSET 0) AS prediction"
            ).format(ids=ids, steps=steps, own=_OF_MODEL.format(Literal(contract.model)), candidate=candidate),
            own,
        )
    return joined


def join_shipped(connection: Connection, contract: Contract) -> None:
    """Join the shipped predictions of the model with what came before them; takes the lock, so call it at the end."""
    if contract.kind == "ranking":
        return
    lock_outcomes(connection, contract.model, is_shared=True)
    if _has_key(contract) and _has_observations(connection, contract):
        _store_observed(connection, contract, SQL("shipped AS prediction"), SQL("true"))
    # What was sent as the outcome stands over what was observed.
    for own, candidate, steps in _list_matches(contract):
        # Of an outcome by id the step is its own, and known only after it.
        outcome = SQL(
            "(SELECT * FROM outcomes AS outcome WHERE outcome.model = {} AND outcome.replaced_at IS NULL"
            " AND {} AND {} OFFSET 0) AS outcome"
        ).format(Literal(contract.model), own, candidate)
        ahead = SQL("{} AS steps (ahead)").format(steps)
        parts = (outcome, ahead) if steps is _OWN_STEP else (ahead, outcome)
        found = SQL("shipped AS prediction CROSS JOIN LATERAL ") + SQL(" CROSS JOIN LATERAL ").join(parts)
        _store_sent(connection, contract, found, SQL("true"))


def join_observations_by_time(
    connection: Connection, contract: Contract, source_id: UUID, first_at: datetime, last_at: datetime
) -> None:
    """Join the observations that a source brought, from `first_at` to `last_at`; takes the lock."""
    earliest_at = first_at - (contract.horizon - 1) * timedelta(seconds=contract.step_s or 0.0)
    span = SQL("prediction.time BETWEEN {} AND {}").format(Literal(earliest_at), Literal(last_at))
    lock_outcomes(connection, contract.model)
    if not _is_predicted(connection, contract, span):
        return
    found = SQL("(SELECT * FROM predictions AS prediction WHERE {} AND {} OFFSET 0) AS prediction").format(
        _OF_MODEL.format(Literal(contract.model)), SQL("prediction.entity IS NOT NULL AND ") + span
    )
    _store_observed(connection, contract, found, SQL("observed.source_id = {}").format(Literal(source_id)))


def join_observations_by_id(connection: Connection, contract: Contract, source_id: UUID, ids: Composable) -> None:
    """Join the observations that a source brought; `ids` is a query of their ids. Takes the lock."""
    lock_outcomes(connection, contract.model)
    if not _is_predicted(connection, contract, SQL("prediction.time IS NULL")):
        return
    found = SQL(
        "(SELECT id::text FROM ({}) AS given (id)) AS given (id)"
        " CROSS JOIN LATERAL (SELECT * FROM predictions AS prediction"
        "  WHERE {} AND prediction.time IS NULL AND prediction.entity = given.id OFFSET 0) AS prediction"
    ).format(ids, _OF_MODEL.format(Literal(contract.model)))
    _store_observed(connection, contract, found, SQL("observed.source_id = {}").format(Literal(source_id)))


def _has_key(contract: Contract) -> bool:
    return contract.key.time is not None or contract.key.id is not None


def _is_predicted(connection: Connection, contract: Contract, condition: Composable) -> bool:
    """Whether any prediction under a key meets the condition: most rows of a model are no outcomes."""
    query = SQL(
        "SELECT EXISTS (SELECT FROM predictions AS prediction"
        " WHERE prediction.model = {} AND prediction.entity IS NOT NULL AND {})"
    ).format(Literal(contract.model), condition)
    row = _get_raw(connection).execute(query).fetchone()
    return row is not None and bool(row[0])


def _has_observations(connection: Connection, contract: Contract) -> bool:
    query = "SELECT to_regclass(%s) IS NOT NULL"
    row = _get_raw(connection).execute(query, [name_observations(contract.model)]).fetchone()
    return row is not None and bool(row[0])


# --- the two joins -----------------------------------------------------------------------------------------------


_OF_MODEL = SQL("prediction.model = {}")
_OWN_STEP = SQL("(SELECT outcome.step::integer)")


def _list_matches(contract: Contract) -> list[tuple[Composable, Composable, Composable]]:
    """How outcomes that were sent are matched: which of them, with which predictions, and the steps ahead.

    By the prediction's id, and by the workload's key where it has one.
    """
    matches: list[tuple[Composable, Composable, Composable]] = [
        (SQL("outcome.prediction_id IS NOT NULL"), SQL("prediction.id = outcome.prediction_id"), _OWN_STEP)
    ]
    is_by_key = SQL("outcome.prediction_id IS NULL")
    steps = SQL("generate_series(1, {})").format(Literal(contract.horizon))
    same = SQL("prediction.entity = outcome.entity")
    if contract.key.time is not None:
        # Both ways round, so that either side's index serves.
        at = SQL(
            " AND prediction.time = outcome.time - (steps.ahead - 1) * {step}"
            " AND outcome.time = prediction.time + (steps.ahead - 1) * {step}"
        ).format(step=_build_step(contract))
        matches.append((is_by_key, same + at, steps))
    elif contract.key.id is not None:
        none = SQL(" AND prediction.time IS NULL AND outcome.time IS NULL")
        matches.append((is_by_key, same + none, steps))
    return matches


def _store_sent(connection: Connection, contract: Contract, found: Composable, chosen: Composable) -> int:
    """Join what was sent as an outcome; `found` are pairs of both. How many were joined for the first time."""
    query = SQL(
        "WITH found AS (SELECT outcome.id AS outcome_id, {columns} FROM {found} WHERE {chosen} AND {fits}),"
        " stored AS ({store})"
        " UPDATE outcomes AS outcome SET is_joined = true FROM found"
        " WHERE outcome.id = found.outcome_id AND NOT outcome.is_joined"
    ).format(
        columns=_build_columns(contract, SQL("outcome.value"), SQL("prediction.entity IS NOT NULL")),
        found=found,
        chosen=chosen,
        fits=_build_fits(contract, SQL("outcome.value")),
        store=_STORE,
    )
    return _get_raw(connection).execute(query).rowcount


def _store_observed(connection: Connection, contract: Contract, found: Composable, chosen: Composable) -> None:
    """Join predictions under a key with what was observed under it; `found` are the predictions."""
    key = contract.key
    matches: list[Composable] = []
    name = key.id if key.time is None else key.entity
    if name is not None:
        given: Composable = SQL("prediction.entity")
        if contract.column(name).dtype == "integer":
            given = SQL("CASE WHEN prediction.entity ~ '^-?[0-9]{1,18}$' THEN prediction.entity::bigint END")
        matches.append(SQL("observed.{} = {}").format(Identifier(name), given))
    if key.time is not None:
        at = SQL("observed.{} = prediction.time + (steps.ahead - 1) * {}")
        matches.append(at.format(Identifier(key.time), _build_step(contract)))
    value = _build_observed_value(contract)
    query = SQL(
        "WITH found AS ("
        " SELECT {columns} FROM {found} CROSS JOIN generate_series(1, {horizon}) AS steps (ahead)"
        "  CROSS JOIN LATERAL (SELECT * FROM {observations} AS observed WHERE {matches} OFFSET 0) AS observed"
        "  WHERE prediction.entity IS NOT NULL AND {chosen} AND {fits}"
        ") {store}"
    ).format(
        columns=_build_columns(contract, value, SQL("false")),
        found=found,
        horizon=Literal(contract.horizon),
        observations=Identifier(name_observations(contract.model)),
        matches=SQL(" AND ").join(matches),
        chosen=chosen,
        fits=_build_fits(contract, value),
        store=_STORE,
    )
    _get_raw(connection).execute(query)


_STORE = SQL(
    "INSERT INTO joined_outcomes AS joined (prediction_id, step, model, version, predicted_at, outcome_at, predicted,"
    "  value, squared, baseline, is_to_complete)"
    " SELECT prediction_id, step, model, version, predicted_at, outcome_at, predicted, value, squared, baseline,"
    "  is_to_complete FROM found"
    " ON CONFLICT (prediction_id, step) DO UPDATE SET predicted = EXCLUDED.predicted, value = EXCLUDED.value,"
    "  squared = EXCLUDED.squared, is_to_complete = EXCLUDED.is_to_complete, joined_at = now()"
    " WHERE joined.value IS DISTINCT FROM EXCLUDED.value"
)


# --- their parts -------------------------------------------------------------------------------------------------


def _build_columns(contract: Contract, value: Composable, is_to_complete: Composable) -> Composed:
    """The columns of `joined_outcomes` for a prediction, a step and a value."""
    return SQL(
        "prediction.id AS prediction_id, steps.ahead::smallint AS step, prediction.model, prediction.version,"
        " prediction.at AS predicted_at,"
        " coalesce(prediction.time + (steps.ahead - 1) * {step}, prediction.at) AS outcome_at,"
        " {predicted} AS predicted, {value} AS value, {squared} AS squared, {baseline} AS baseline,"
        " {is_to_complete} AS is_to_complete"
    ).format(
        step=_build_step(contract),
        predicted=_PREDICTED[contract.task].format(value=value),
        value=value,
        squared=_SQUARED[contract.task].format(value=value),
        baseline=_build_persistence(contract),
        is_to_complete=is_to_complete,
    )


_PREDICTED = {
    "regression": SQL("prediction.outputs[steps.ahead]"),
    "binary": SQL("CASE WHEN {value} > 0.5 THEN prediction.outputs[1] ELSE 1 - prediction.outputs[1] END"),
    "multiclass": SQL("prediction.outputs[({value})::integer + 1]"),
}
_SQUARED = {
    "regression": SQL("(prediction.outputs[steps.ahead] - {value}) ^ 2"),
    "binary": SQL("(prediction.outputs[1] - {value}) ^ 2"),
    "multiclass": SQL(
        "(SELECT sum((probability - CASE WHEN place = {value} + 1 THEN 1 ELSE 0 END) ^ 2)"
        " FROM unnest(prediction.outputs) WITH ORDINALITY AS given (probability, place))"
    ),
}


def _build_persistence(contract: Contract) -> Composable:
    """The target's last value among the inputs of a series `(steps * features)`."""
    if contract.kind != "sequence" or contract.target not in contract.features:
        return SQL("NULL::double precision")
    after = len(contract.features) - 1 - contract.features.index(contract.target)
    return SQL("prediction.inputs[cardinality(prediction.inputs) - {}]").format(Literal(after))


def _build_fits(contract: Contract, value: Composable) -> Composed:
    """Whether the prediction is an answer that has the step, and a value for it."""
    place = SQL("steps.ahead") if contract.task != "multiclass" else SQL("({})::integer + 1").format(value)
    return SQL(
        "prediction.model = {} AND NOT prediction.is_refusal"
        " AND {} <= cardinality(prediction.outputs) AND {} IS NOT NULL"
    ).format(Literal(contract.model), place, value)


def _build_observed_value(contract: Contract) -> Composed:
    """An observation's target as a number, of a classifier the place of its class; NULL for a class that is unknown."""
    target = Identifier(contract.target)
    if contract.classes:
        return SQL("(array_position({}::text[], observed.{}::text) - 1)::double precision").format(
            Literal(list(contract.classes)), target
        )
    if contract.column(contract.target).dtype == "boolean":
        return SQL("observed.{}::integer::double precision").format(target)
    return SQL("observed.{}::double precision").format(target)


def _build_step(contract: Contract) -> Composable:
    return SQL("{}::interval").format(Literal(timedelta(seconds=contract.step_s or 0.0)))


def _get_raw(connection: Connection) -> psycopg.Connection[tuple[object, ...]]:
    raw = connection.connection.driver_connection
    if not isinstance(raw, psycopg.Connection):
        raise TypeError(f"a psycopg connection is needed, not {type(raw).__name__}")
    return raw
