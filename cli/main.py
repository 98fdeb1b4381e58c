"""`millrace`: the command line."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

import typer

from cli.auditing import note_commands
from cli.output import errors
from core.errors import Conflict, InvalidInput, MillraceError, NotFound, Unavailable

EXIT_CODES: tuple[tuple[type[MillraceError], int], ...] = (
    (InvalidInput, 2),
    (NotFound, 3),
    (Conflict, 4),
    (Unavailable, 75),
    (MillraceError, 1),
)

FAMILIES: Mapping[str, Sequence[str]] = {
    "cli.up": ["up"],
    "cli.processes": ["serve", "control", "work", "tracking", "broker", "ui"],
    "cli.data": ["ingest", "watch", "pull"],
    "cli.stored": ["rejected", "origin", "snapshot"],
    "cli.streaming": ["replay"],
    "cli.training": ["train", "retrain"],
    "cli.jobs": ["jobs"],
    "cli.tuning": ["tune", "reproduce"],
    "cli.versions": ["promote", "rollback", "target"],
    "cli.history": ["history"],
    "cli.approvals": ["approvals", "approve", "reject"],
    "cli.outcomes": ["outcomes", "performance"],
    "cli.monitoring": ["check", "report"],
    "cli.alerting": ["alerts"],
    "cli.declaring": ["new", "validate"],
    "cli.predicting": ["predict"],
    "cli.accounts": ["users", "tokens"],
    "cli.audit": ["audit"],
    "cli.status": ["status"],
    "cli.keeping": ["backup", "restore", "upgrade", "gc"],
    "cli.demo": ["demo"],
}
"""The commands of each module, in the order of the help."""


def build_app(command: str | None = None) -> typer.Typer:
    """The command line with the module of `command` alone, or with all of them where it is none of the commands.

    A process that is installed alone, as serving is in its image, lacks the engines that other commands import.
    """
    app = typer.Typer(name="millrace", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    # With a callback of its own an application of one command still takes that command's name.
    app.callback(help="The whole life of Keras models around MLflow. Begin with `millrace up`.")(lambda: None)
    named = [module for module, commands in FAMILIES.items() if command in commands]
    for module in named or FAMILIES:
        import_module(module).add_commands(app)
    note_commands(app)
    return app


def main() -> None:
    """Run a command; an error of ours is its sentence on standard error and an exit code by its category."""
    # What it and its children write (logs, snapshots, keys) is its owner's alone.
    os.umask(0o077)
    try:
        build_app(next(iter(sys.argv[1:]), None))()
    except MillraceError as error:
        errors.print(error.sentence, style="red", markup=False, soft_wrap=True)
        sys.exit(next(code for kind, code in EXIT_CODES if isinstance(error, kind)))


if __name__ == "__main__":
    main()
