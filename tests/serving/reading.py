"""What the database holds of what was served."""

from collections import Counter

from sqlalchemy import Engine, func, select

from core.tables.predictions import feature_counts, predictions, quality_counts, request_counts


def load_ids(engine: Engine) -> list[str]:
    """Ids of all answered predictions."""
    with engine.connect() as connection:
        return [str(row) for row in connection.scalars(select(predictions.c.id).where(~predictions.c.is_refusal))]


def load_request_counts(engine: Engine) -> tuple[int, int]:
    """Counted predictions and refusals."""
    with engine.connect() as connection:
        row = connection.execute(
            select(func.sum(request_counts.c.predictions), func.sum(request_counts.c.refusals))
        ).one()
    return int(row[0] or 0), int(row[1] or 0)


def load_request_outcomes(engine: Engine) -> tuple[int, int]:
    """Counted requests that were answered, and that failed for reasons of the version."""
    with engine.connect() as connection:
        row = connection.execute(select(func.sum(request_counts.c.answers), func.sum(request_counts.c.failures))).one()
    return int(row[0] or 0), int(row[1] or 0)


def load_feature_counts(engine: Engine) -> Counter[int]:
    """Counts by bin of all versions and hours."""
    counted: Counter[int] = Counter()
    with engine.connect() as connection:
        for row in connection.execute(select(feature_counts.c.bin, feature_counts.c.count)):
            counted[row[0]] += row[1]
    return counted


def load_quality_counts(engine: Engine) -> dict[tuple[str, str], int]:
    """Faulty values and refused requests by column and kind, of all versions and hours."""
    counted = quality_counts.c
    statement = select(counted.column, counted.kind, func.sum(counted.count)).group_by(counted.column, counted.kind)
    with engine.connect() as connection:
        return {(column, kind): int(count) for column, kind, count in connection.execute(statement)}
