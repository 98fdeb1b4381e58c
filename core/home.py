"""The platform's folder on this machine, and who may enter it."""

import os
from pathlib import Path

from core.server_account import ROOT_UID


def make_home(home: Path) -> None:
    """Make the folder, and the missing ones above it, for its owner alone; one that is there stays as it is.

    Made by root, others may pass through it without reading: there the database runs as another user.
    """
    mode = 0o711 if os.geteuid() == ROOT_UID else 0o700
    for folder in (*reversed(home.absolute().parents), home):
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            folder.chmod(mode)
