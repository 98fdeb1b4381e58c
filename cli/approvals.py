"""Commands for versions that wait for an approval."""

from typing import Annotated

import typer

from cli.actor import find_actor
from cli.output import JsonOption, print_json, print_table
from cli.session import database_session, stage_session
from cli.versions import ModelArgument, ReasonOption, print_transition
from core.approvals import approve as let_pass
from core.approvals import load_approvals
from core.approvals import reject as turn_down
from core.resolution import find_target_version

VersionArgument = Annotated[str, typer.Argument(help="Number or name of the version that waits.")]


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(approvals)
    app.command()(approve)
    app.command()(reject)


def approvals(*, as_json: JsonOption = False) -> None:
    """List the versions that passed the gate and wait in Staging for a role's approval."""
    with database_session(is_reading=True) as connections, connections.engine.connect() as connection:
        waiting = load_approvals(connection)
    if as_json:
        print_json(waiting)
        return
    print_table(
        "Waiting for an approval",
        ["model", "version", "since (UTC)", "for", "against", "verdict"],
        [
            [
                one.transition.model,
                one.transition.version,
                one.transition.finished_at,
                one.approver.word,
                one.verdict.champion_version,
                one.verdict.reason,
            ]
            for one in waiting
        ],
    )


def approve(
    model: ModelArgument, version: VersionArgument, *, reason: ReasonOption = "", as_json: JsonOption = False
) -> None:
    """Let a waiting version take Production; serving follows within two seconds."""
    with stage_session() as connections:
        number = find_target_version(connections, model, version)
        transition = let_pass(
            connections.engine, connections.registry, model, number, actor=find_actor(), reason=reason
        )
    print_transition(transition, as_json=as_json)


def reject(
    model: ModelArgument,
    version: VersionArgument,
    *,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; it is kept in the history.")],
    as_json: JsonOption = False,
) -> None:
    """Archive a waiting version; the champion stays."""
    with stage_session() as connections:
        number = find_target_version(connections, model, version)
        transition = turn_down(
            connections.engine, connections.registry, model, number, actor=find_actor(), reason=reason
        )
    print_transition(transition, as_json=as_json)
