"""Commands for versions: what serves, promotion and rollback."""

from typing import Annotated

import typer

from cli.actor import find_actor
from cli.output import JsonOption, console, print_json
from cli.session import platform_session, stage_session
from core.promotion import promote_by_hand
from core.promotion import rollback as roll_back
from core.resolution import find_target_version
from core.targets import load_targets, set_target
from core.transitions import Transition

ModelArgument = Annotated[str, typer.Argument(help="The model, as in `prices`.")]
ReasonOption = Annotated[str, typer.Option("--reason", "-r", help="Why; it is kept in the history.")]


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(promote)
    app.command()(rollback)
    app.command()(target)


def promote(
    model: ModelArgument,
    version: Annotated[str, typer.Argument(help="Number or name of the version that takes Production.")],
    *,
    override: Annotated[
        bool, typer.Option("--override", help="Promote against the gate's verdict; needs a reason, which is kept.")
    ] = False,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Move a version to Production by hand; serving follows within two seconds."""
    with stage_session() as connections:
        transition = promote_by_hand(
            connections.engine,
            connections.registry,
            model,
            find_target_version(connections, model, version),
            actor=find_actor(),
            reason=reason,
            is_override=override,
        )
    print_transition(transition, as_json=as_json)


def rollback(model: ModelArgument, *, reason: ReasonOption = "", as_json: JsonOption = False) -> None:
    """Go back to the last good Production version before this one; again goes further back."""
    with stage_session() as connections:
        transition = roll_back(connections.engine, connections.registry, model, actor=find_actor(), reason=reason)
    print_transition(transition, as_json=as_json)


def target(
    model: ModelArgument,
    wanted: Annotated[
        str | None,
        typer.Argument(help="`Production`, `latest` or a version's number or name; without it the present one."),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show or set what serves; a version that does not exist is refused. No restart is needed."""
    # It brings numpy, which promotion and rollback do without.
    from core.contracts import load_contract

    with platform_session(is_reading=wanted is None) as connections:
        if wanted is not None:
            find_target_version(connections, model, wanted)
            with connections.engine.begin() as connection:
                load_contract(connection, model)
                set_target(connection, model, wanted, find_actor())
        with connections.engine.connect() as connection:
            load_contract(connection, model)
            present = load_targets(connection)[model]
    if as_json:
        print_json({"model": model, "target": present})
    else:
        console.print(f"{model} serves {present}")


def print_transition(transition: Transition, *, as_json: bool) -> None:
    """The transition that a command made."""
    if as_json:
        print_json(transition)
        return
    before = "nothing" if transition.previous_version is None else f"version {transition.previous_version}"
    console.print(
        f"{transition.model}: version {transition.version} is in {transition.to_stage}; Production was {before}"
    )
