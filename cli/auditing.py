"""The entry of a command in the audit log."""

import functools
import logging
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import typer
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cli.actor import find_actor
from core.audit import AuditEntry, Outcome, now, store_entries

logger = logging.getLogger(__name__)

_command: ContextVar[tuple[str, Mapping[str, object]]] = ContextVar("command", default=("", {}))


def note_commands(app: typer.Typer) -> None:
    """Let every command that was added to the application so far say its name and arguments to its entry."""
    _note_below(app, "")


def _note_below(app: typer.Typer, prefix: str) -> None:
    for command in app.registered_commands:
        if command.callback is not None:
            command.callback = _note(f"{prefix}{command.name or command.callback.__name__}", command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _note_below(group.typer_instance, f"{prefix}{group.name} ")


def _note(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def run_noted(*args: Any, **arguments: Any) -> Any:
        token = _command.set((name, arguments))
        try:
            return run(*args, **arguments)
        finally:
            _command.reset(token)

    return run_noted


@contextmanager
def audited(engine: Engine) -> Iterator[None]:
    """Enter the command that runs in this block, with what became of it.

    What it is about (model, version, user, token, job) is taken from its arguments, and nothing else of them.
    """
    entry = _build_entry()
    try:
        yield
    except BaseException as error:
        try:
            _store(engine, entry, "failed", type(error).__name__)
        except SQLAlchemyError as fault:
            # What ended the command is what its user has to be told.
            logger.warning("the command's audit entry is not stored: %s", fault)
        raise
    _store(engine, entry, "done", None)


def _build_entry() -> AuditEntry:
    command, arguments = _command.get()
    model, version = arguments.get("model"), arguments.get("version")
    target = arguments.get("name", arguments.get("job_id")) if version is None else f"version {version}"
    return AuditEntry(
        happened_at=now(),
        process="cli",
        action=f"millrace {command}",
        outcome="done",
        actor=find_actor(),
        client=platform.node() or None,
        model=str(model) if model is not None else None,
        target=str(target) if target is not None else None,
    )


def _store(engine: Engine, entry: AuditEntry, outcome: Outcome, reason: str | None) -> None:
    with engine.begin() as connection:
        store_entries(connection, [replace(entry, outcome=outcome, reason=reason)])
