"""Commands for outcomes: bring them in, and see what came of predictions."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.actor import find_actor
from cli.data import check_encoding
from cli.output import JsonOption, console, print_json, print_table
from cli.session import database_session
from core.outcomes import load_totals
from core.performance import Period, VersionPerformance, load_performance
from ingestion.outcomes import OutcomesResult, import_outcomes
from workloads.catalogue import get_workload

_Model = Annotated[str, typer.Argument(help="The model, as in `prices`.")]


class _By(StrEnum):
    """The periods that performance is shown by."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(outcomes)
    app.command()(performance)


def outcomes(
    model: _Model,
    file: Annotated[
        Path, typer.Argument(help="A CSV, XLSX, Parquet or JSON file of outcomes.", exists=True, dir_okay=False)
    ],
    *,
    encoding: Annotated[str | None, typer.Option(help="Of a CSV file; without it UTF-8.")] = None,
    sheet: Annotated[str | None, typer.Option(help="Of a workbook; without it the first.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what came of predictions: rows with `prediction_id`, or with the workload's key, and the target's value.

    Each bad row is rejected alone; `millrace rejected MODEL` lists them. The same rows twice change nothing.
    """
    contract = get_workload(model).build_contract()
    checked = check_encoding(encoding)
    with database_session() as connections:
        result = import_outcomes(
            connections.engine,
            contract,
            file,
            name=file.name,
            actor=find_actor(),
            encoding=checked,
            sheet=sheet,
            max_bytes=connections.settings.max_upload_bytes,
        )
    if as_json:
        print_json(result)
        return
    for line in _word(f"{file.name} -> {model}", result):
        console.print(line, markup=False, soft_wrap=True)


def _word(title: str, result: OutcomesResult) -> list[str]:
    lines = [
        f"{title}: {result.outcomes_new} new, {result.outcomes_corrected} corrected, "
        f"{result.outcomes_unchanged} unchanged outcomes",
        f"{result.outcomes_joined} have their prediction, {result.outcomes_waiting} wait for it.",
    ]
    if result.outcomes_repeated:
        lines.append(f"{result.outcomes_repeated} rows were repeated by a later one of the file, which stands.")
    if result.outcomes_rejected:
        lines.append(f"{result.outcomes_rejected} rows were rejected, first {result.rejected[0].to_fault()}")
    return lines


def performance(
    model: _Model,
    *,
    by: Annotated[_By, typer.Option(help="The periods; a week begins on Monday.")] = _By.WEEK,
    days: Annotated[int, typer.Option(min=1, help="How far back.")] = 90,
    as_json: JsonOption = False,
) -> None:
    """Compare what was predicted with what came, by period, beside each version's own evaluation and its baseline."""
    unit = get_workload(model).build_contract()
    target = unit.column(unit.target)
    period: Period = by.value
    now = datetime.now(UTC)
    with database_session(is_reading=True) as connections, connections.engine.connect() as connection:
        found = load_performance(connection, model, period, now - timedelta(days=days), now)
        totals = load_totals(connection, model)
    if as_json:
        print_json({"model": model, "outcomes": asdict(totals), "versions": [_build_document(one) for one in found]})
        return
    waiting = f"{totals.joined} outcomes joined, {totals.waiting} waiting, {totals.corrected} corrected"
    console.print(f"{model}: {waiting}", markup=False)
    for one in found:
        promised = one.evaluation
        title = (
            f"version {promised.version}: {promised.metric} {promised.error:.6g} promised"
            + ("" if promised.lower is None else f" ({promised.lower:.6g} to {promised.upper:.6g})")
            + (f", {target.unit}" if target.unit and promised.metric in ("mae", "rmse") else "")
        )
        print_table(
            title,
            [period, "outcomes", "error", "from", "to", promised.baseline_name],
            [
                [
                    f"{at.from_at:%Y-%m-%d}",
                    at.realised.rows,
                    at.realised.error,
                    at.realised.lower,
                    at.realised.upper,
                    at.realised.baseline_error,
                ]
                for at in one.periods
            ],
        )


def _build_document(found: VersionPerformance) -> dict[str, object]:
    promised = asdict(found.evaluation)
    for name in ("contract", "target_means", "model"):
        del promised[name]
    periods = [{"from_at": at.from_at, "to_at": at.to_at, **asdict(at.realised)} for at in found.periods]
    return {**promised, "periods": periods}
