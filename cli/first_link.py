"""The one-time link that a start prints while there is no administrator."""

from cli.output import console
from core.connections import open_connections
from core.settings import Settings


def print_first_link(settings: Settings, database_url: str) -> None:
    """Print a link that makes the first administrator, while there is none."""
    from core.one_time_links import create_link

    with open_connections(settings, database_url) as connections, connections.engine.begin() as connection:
        link = create_link(connection, settings.serving_address)
    if link is not None:
        console.print("There is no administrator yet. Whoever opens this becomes the first; it works once, for a day:")
        console.print(f"  {link}", markup=False, soft_wrap=True)
