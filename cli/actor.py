"""Who is at the terminal, as records name it."""

import getpass


def find_actor() -> str:
    """The name of the system user, or `local` where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "local"
