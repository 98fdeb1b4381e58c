"""Rows of outcomes against the workload's contract: what each is the outcome of, and its value as a number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.contract import Column, Contract, Key
from core.data_errors import OutcomesNotTaken
from ingestion.faults import RowFault
from ingestion.files import TextRows
from ingestion.json_rows import TextRow
from ingestion.validation import LINE, RowChecker

PREDICTION_ID = "prediction_id"
STEP = "step"
VALUE = "value"
"""Another name of the target's column."""


@dataclass(frozen=True)
class Outcome:
    """One outcome: of a prediction by its id and the step ahead, from 1, or by the workload's key.

    `value` is in the target's unit; of a classifier the place of the class, from 0.
    """

    line: int
    prediction_id: UUID | None
    step: int
    entity: str | None
    time: datetime | None
    value: float


def build_outcome_contract(contract: Contract) -> Contract:
    """The columns that rows of outcomes may have, for readers; none of them is required of every row.

    Raises OutcomesNotTaken for a ranking, whose outcomes are interactions.
    """
    if contract.kind == "ranking":
        raise OutcomesNotTaken(contract.model, "a ranking's outcomes are later interactions, which are observations")
    columns = [*_list_own(contract), *_list_key(contract), _build_target(contract)]
    names = [column.name for column in columns]
    if len(set(names)) != len(names):
        raise OutcomesNotTaken(contract.model, f"its key or target is named {PREDICTION_ID} or {STEP}")
    loose = tuple(column.model_copy(update={"is_nullable": True}) for column in columns)
    return contract.model_copy(update={"columns": loose, "key": Key(), "order": "any", "retention_days": None})


class OutcomeChecker:
    """Checks one input, chunk by chunk. A row that names its prediction needs no key, and what it has is left out."""

    def __init__(self, contract: Contract, *, has_decimal_comma: bool, now: datetime) -> None:
        own = {"order": "any", "retention_days": None}
        target = _build_target(contract)
        by_id = contract.model_copy(
            update={**own, "columns": (*_list_own(contract), target), "key": Key(id=PREDICTION_ID)}
        )
        by_key = contract.model_copy(update={**own, "columns": (*_list_key(contract), target)})
        self._contract = contract
        self._has_key = bool(_list_key(contract))
        self._by_id = RowChecker(by_id, has_decimal_comma=has_decimal_comma, now=now)
        self._by_key = RowChecker(by_key, has_decimal_comma=has_decimal_comma, now=now)
        self._columns = (by_id.columns, by_key.columns)
        self._places = {name: float(place) for place, name in enumerate(contract.classes)}

    def check(self, rows: TextRows) -> tuple[list[Outcome], list[RowFault]]:
        """The outcomes, and what is wrong with the other rows, both in the order of their lines."""
        found: list[Outcome] = []
        faults = list(rows.faults)
        is_by_id = self._find_named(rows)
        for mask, checker, columns in (
            (is_by_id, self._by_id, self._columns[0]),
            (~is_by_id, self._by_key, self._columns[1]),
        ):
            if mask.any():
                checked = checker.check(_take(rows, mask, columns))
                faults += checked.faults
                for row in checked.table.to_pylist():
                    outcome = self._build(row)
                    if isinstance(outcome, Outcome):
                        found.append(outcome)
                    else:
                        faults.append(outcome)
        found.sort(key=lambda outcome: outcome.line)
        faults.sort(key=lambda fault: fault.line or 0)
        return found, faults

    def _find_named(self, rows: TextRows) -> NDArray[np.bool_]:
        """Which rows `(rows,)` name their prediction; all of them where the workload has no key."""
        cells = rows.cells.get(PREDICTION_ID)
        if not self._has_key or cells is None:
            return np.full(len(rows.lines), not self._has_key)
        text = pc.utf8_trim_whitespace(pc.fill_null(cells.cast(pa.string()), ""))
        return np.asarray(pc.not_equal(text, "").to_numpy(zero_copy_only=False), dtype=np.bool_)

    def _build(self, row: Mapping[str, object]) -> Outcome | RowFault:
        line = int(str(row[LINE]))
        value = self._find_value(line, row[self._contract.target])
        if isinstance(value, RowFault):
            return value
        given = row.get(PREDICTION_ID)
        if given is not None:
            try:
                prediction_id = UUID(str(given))
            except ValueError:
                return RowFault(line, PREDICTION_ID, str(given), "the id that a prediction was answered with is needed")
            step = row.get(STEP)
            return Outcome(line, prediction_id, 1 if step is None else int(str(step)), None, None, value)
        key = self._contract.key
        name = key.id if key.time is None else key.entity
        time = None if key.time is None else row[key.time]
        return Outcome(
            line, None, 1, "" if name is None else str(row[name]), time if isinstance(time, datetime) else None, value
        )

    def _find_value(self, line: int, value: object) -> float | RowFault:
        contract = self._contract
        if contract.classes:
            place = self._places.get(str(value))
            rule = f"one of the classes {', '.join(contract.classes)} is needed"
            return RowFault(line, contract.target, str(value), rule) if place is None else place
        number = float(str(int(value) if isinstance(value, bool) else value))
        if contract.task == "binary" and number not in (0.0, 1.0):
            return RowFault(line, contract.target, str(value), "0 or 1 is needed")
        return number


def build_text_rows(contract: Contract, rows: Sequence[TextRow]) -> TextRows:
    """Rows of JSON in the columns of `build_outcome_contract`; what a row lacks is empty."""
    lines = np.array([row.line for row in rows], dtype=np.int64)
    names = {name for row in rows for name in row.cells}
    cells = {
        column.name: pa.array([row.cells.get(column.name, "") for row in rows], pa.string())
        for column in contract.columns
        if column.name in names
    }
    return TextRows(lines=lines, cells=cells, faults=(), read_bytes=0)


def _list_own(contract: Contract) -> list[Column]:
    own = [Column(name=PREDICTION_ID, dtype="text")]
    if contract.horizon > 1:
        own.append(Column(name=STEP, dtype="integer", minimum=1, maximum=contract.horizon, is_nullable=True))
    return own


def _list_key(contract: Contract) -> list[Column]:
    key = contract.key
    names = (key.id,) if key.time is None else (key.entity, key.time)
    return [contract.column(name) for name in names if name is not None]


def _build_target(contract: Contract) -> Column:
    target = contract.column(contract.target)
    aliases = tuple(dict.fromkeys((*target.aliases, VALUE)))
    return target.model_copy(update={"aliases": aliases, "is_nullable": False, "default": None})


def _take(rows: TextRows, mask: NDArray[np.bool_], columns: Sequence[Column]) -> TextRows:
    """The chosen rows with a cell for each of the columns; an absent one is empty, or the column's default."""
    chosen = pa.array(mask)
    count = int(mask.sum())
    cells: dict[str, pa.Array] = {}
    for column in columns:
        given = rows.cells.get(column.name)
        if given is None:
            cells[column.name] = pa.repeat(pa.scalar(column.default or "", pa.string()), count)
            continue
        given = given.filter(chosen)
        if column.default is not None and pa.types.is_string(given.type):
            given = pc.if_else(pc.equal(pc.utf8_trim_whitespace(given), ""), column.default, given)
        cells[column.name] = given
    return TextRows(lines=rows.lines[mask], cells=cells, faults=(), read_bytes=rows.read_bytes)
