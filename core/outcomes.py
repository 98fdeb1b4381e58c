"""How many outcomes a model has, and what became of them."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from core.tables.outcomes import joined_outcomes, outcomes


@dataclass(frozen=True)
class OutcomeTotals:
    """Joined steps of predictions; outcomes that wait for their prediction; earlier ones that were corrected."""

    joined: int
    waiting: int
    corrected: int


def load_totals(connection: Connection, model: str) -> OutcomeTotals:
    """The totals of a model. What observations brought is counted where it was predicted."""
    of_model = outcomes.c.model == model
    joined = select(func.count()).where(joined_outcomes.c.model == model)
    waiting = select(func.count()).where(of_model, ~outcomes.c.is_joined, outcomes.c.replaced_at.is_(None))
    corrected = select(func.count()).where(of_model, outcomes.c.replaced_at.is_not(None))
    return OutcomeTotals(*(connection.execute(query).scalar_one() for query in (joined, waiting, corrected)))
