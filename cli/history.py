"""The command that shows a model's history, and what served at a time."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer

from cli.output import JsonOption, console, print_json, print_table
from cli.session import database_session
from core.contracts import load_contract
from core.errors import ParameterRejected
from core.history import Evidence, ServedAt, load_evidence, load_served_at
from core.targets import load_target_changes
from core.transitions import Transition, load_history
from core.version_names import load_version_names


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(history)


def history(
    model: Annotated[str, typer.Argument(help="The model, as in `prices`.")],
    *,
    limit: Annotated[int, typer.Option(help="How many transitions, newest first.", min=1)] = 50,
    at: Annotated[
        str | None,
        typer.Option(help="Show what served at this time instead, as in 2026-11-21T12:00; UTC if it names no zone."),
    ] = None,
    checks: Annotated[bool, typer.Option("--checks", help="Show the gate's checks too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show every transition of a model: when, from, to, who or what, why, and on what evidence."""
    with database_session(is_reading=True) as connections, connections.engine.connect() as connection:
        load_contract(connection, model)
        names = {version: name for name, version in load_version_names(connection, model).items()}
        if at is not None:
            _print_served(load_served_at(connection, model, _parse_time(at)), names, as_json=as_json)
            return
        transitions = load_history(connection, model, limit)
        evidence = load_evidence(connection, transitions)
        targets = load_target_changes(connection, model, limit)
    if as_json:
        print_json([asdict(one) | {"evidence": asdict(evidence[one.id])} for one in transitions])
        return
    print_table(
        f"History of {model}",
        ["id", "at (UTC)", "version", "name", "move", "by", "why", "evidence"],
        [
            [
                one.id,
                one.finished_at or one.intended_at,
                one.version,
                names.get(one.version),
                _show_move(one),
                f"{one.actor} ({one.cause})",
                one.reason,
                _show_evidence(evidence[one.id]),
            ]
            for one in transitions
        ],
    )
    if checks:
        for one in transitions:
            _print_checks(one, evidence[one.id])
    if targets:
        print_table(
            f"Targets of {model}",
            ["at (UTC)", "target", "set by"],
            [[change.set_at, change.target, change.set_by] for change in targets],
        )


def _parse_time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ParameterRejected("at", text, "a time as in 2026-11-21T12:00 is expected") from None


def _show_move(transition: Transition) -> str:
    move = f"{transition.from_stage} -> {transition.to_stage}"
    if transition.previous_version is not None:
        move += f", Production was {transition.previous_version}"
    return move if transition.state == "finished" else f"{move} ({transition.state})"


def _show_evidence(evidence: Evidence) -> str:
    shown = []
    if evidence.verdict is not None:
        verdict = evidence.verdict.verdict
        passed = sum(check.has_passed for check in verdict.checks)
        against = "" if verdict.champion_version is None else f" against {verdict.champion_version}"
        shown.append(f"{verdict.outcome}{against}, {passed} of {len(verdict.checks)} checks")
    if evidence.training_id is not None:
        shown.append(f"training {evidence.training_id} ({evidence.training_cause})")
    if evidence.finding_id is not None:
        shown.append(f"finding {evidence.finding_id}")
    return "; ".join(shown) or "-"


def _print_checks(transition: Transition, evidence: Evidence) -> None:
    if evidence.verdict is None:
        return
    print_table(
        f"Checks of version {transition.version}, transition {transition.id}",
        ["check", "passed", "value", "threshold", "reason"],
        [
            [check.name, "yes" if check.has_passed else "no", check.value, check.threshold, check.reason]
            for check in evidence.verdict.verdict.checks
        ],
    )


def _print_served(served: ServedAt, names: Mapping[int, str], *, as_json: bool) -> None:
    name = None if served.version is None else names.get(served.version)
    if as_json:
        print_json(asdict(served) | {"version_name": name})
        return
    version = "nothing" if served.version is None else f"version {served.version}" + (f" ({name})" if name else "")
    chosen = "" if served.target_set_by is None else f", set by {served.target_set_by} at {served.target_set_at:%F %T}"
    console.print(f"{served.model} at {served.at:%F %T} UTC: {version}; target {served.target}{chosen}", markup=False)
    if served.transition is not None:
        moved = served.transition
        console.print(
            f"Production was {served.production or 'empty'} since {moved.finished_at:%F %T}: "
            f"{moved.actor} ({moved.cause}) {moved.reason}",
            markup=False,
        )
