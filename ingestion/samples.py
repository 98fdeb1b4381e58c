"""Sample data that makes way for the first rows of one's own."""

from psycopg.sql import SQL, Identifier
from sqlalchemy import Connection, select, update

from core.tables.data import sources
from ingestion.store import SOURCE, build_table_name, get_raw_connection

SAMPLE = "sample"


def remove_samples(connection: Connection, model: str) -> int:
    """Delete what sources of kind `sample` have brought in; how many rows. Their sources stay, in state `replaced`."""
    is_sample = (sources.c.model == model) & (sources.c.kind == SAMPLE) & (sources.c.state == "imported")
    found = connection.scalars(select(sources.c.id).where(is_sample)).all()
    if not found:
        return 0
    connection.execute(update(sources).where(is_sample).values(state="replaced"))
    statement = SQL("DELETE FROM {} WHERE {} = ANY(%s)").format(Identifier(build_table_name(model)), Identifier(SOURCE))
    return get_raw_connection(connection).execute(statement, [list(found)]).rowcount
