"""The one metadata of all tables, and what their columns share."""

from sqlalchemy import TIMESTAMP, Column, MetaData, text

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)


def build_time(name: str, *, nullable: bool = False, default_now: bool = False) -> Column[object]:
    """A column of times in UTC."""
    return Column(
        name,
        TIMESTAMP(timezone=True),
        nullable=nullable,
        server_default=text("now()") if default_now else None,
    )
