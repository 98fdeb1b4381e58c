"""Alembic's entry: runs the migrations on the connection that `core.database.migrate_database` passes in."""

from alembic import context
from sqlalchemy import Connection

from core.tables.metadata import metadata


def run() -> None:
    connection = context.config.attributes.get("connection")
    if not isinstance(connection, Connection):
        raise TypeError("migrations run through core.database.migrate_database")
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()


run()
