"""Trainings by the clock: every workload's schedule, dealt with once for each time that it names."""

import logging
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.postgresql import insert

from core.connections import Connections
from core.errors import DeclarationRejected, SettingsRejected
from core.settings import Settings
from core.tables.trainings import due_trainings
from core.trainings import request_training
from ingestion.store import has_observations
from jobs.clock import find_due
from workloads.catalogue import load_catalogue
from workloads.declaration import Schedule

logger = logging.getLogger(__name__)

SCHEDULES_CRON = "* * * * *"
"""How often schedules are looked at: every minute, the finest that they can name."""
ACTOR = "schedule"


def load_schedules(settings: Settings) -> Mapping[str, Schedule]:
    """The schedule of each workload that has one: the declared one, or what the setting says in its place.

    Raises SettingsRejected for a model or a cron expression that the setting names and that is none.
    """
    catalogue = load_catalogue()
    schedules = {name: workload.schedule for name, workload in catalogue.items() if workload.schedule is not None}
    for model, given in settings.training_schedules.items():
        if model not in catalogue:
            allowed = f"there is no workload {model!r}; known are {', '.join(catalogue)}"
            raise SettingsRejected(f"Setting MILLRACE_SCHEDULES is refused: {allowed}.")
        if given is None:
            schedules.pop(model, None)
            continue
        schedule = Schedule(*given)
        try:
            schedule.check(model)
        except DeclarationRejected as error:
            raise SettingsRejected(f"Setting MILLRACE_SCHEDULES is refused: {error.sentence}") from None
        schedules[model] = schedule
    return schedules


def schedule_trainings(connections: Connections, now: datetime) -> list[str]:
    """Request a training of every model whose time has come; returns the models of new ones.

    Each due time is dealt with once, however many workers look and wherever their clocks jump; one that passed while no
    worker ran is made up for once, the last alone. A schedule that is seen for the first time has missed nothing. While
    a training of the model is queued or running, that one is the due time's.
    """
    requested = []
    for model, schedule in load_schedules(connections.settings).items():
        due_at = find_due(schedule.cron, schedule.time_zone, now)
        with connections.engine.begin() as connection:
            if _is_new_schedule(connection, model, schedule):
                _note(connection, model, schedule, due_at)
            elif _note(connection, model, schedule, due_at) and _request(connection, model, schedule, due_at):
                requested.append(model)
    return requested


def _is_new_schedule(connection: Connection, model: str, schedule: Schedule) -> bool:
    is_own = (due_trainings.c.model == model) & (due_trainings.c.schedule == schedule.text)
    return connection.scalar(select(due_trainings.c.due_at).where(is_own).limit(1)) is None


def _note(connection: Connection, model: str, schedule: Schedule, due_at: datetime) -> bool:
    """Record the due time; false where it was recorded before."""
    statement = insert(due_trainings).values(model=model, schedule=schedule.text, due_at=due_at)
    noted = connection.execute(statement.on_conflict_do_nothing().returning(due_trainings.c.due_at))
    return noted.first() is not None


def _request(connection: Connection, model: str, schedule: Schedule, due_at: datetime) -> bool:
    if not has_observations(connection, model):
        logger.info("no rows to train on", extra={"model": model, "due_at": due_at.isoformat()})
        return False
    training, is_new = request_training(connection, model, cause="schedule", actor=ACTOR)
    is_due = (
        (due_trainings.c.model == model)
        & (due_trainings.c.schedule == schedule.text)
        & (due_trainings.c.due_at == due_at)
    )
    connection.execute(update(due_trainings).where(is_due).values(training_id=training.id))
    return is_new
