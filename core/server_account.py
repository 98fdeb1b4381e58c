"""The system user that runs the embedded PostgreSQL, which refuses to run as root."""

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from core.errors import EmbeddedDatabaseFailed

ROOT_UID = 0
ACCOUNTS_FOR_ROOT = ("postgres", "nobody")


@dataclass(frozen=True)
class ServerAccount:
    """A system user other than root: this process's own, or, where this process is root's, one to change to."""

    uid: int
    gid: int

    @property
    def is_own(self) -> bool:
        return self.uid == os.geteuid()

    @property
    def name(self) -> str:
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    def start(self, command: Sequence[str | Path], folder: Path, output: BinaryIO) -> subprocess.Popen[bytes]:
        """Start `command` as this user in `folder`, in a session of its own (out of reach of the terminal's Ctrl-C)."""
        own_libraries = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"} | own_libraries,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=None if self.is_own else self.uid,
            group=None if self.is_own else self.gid,
            extra_groups=None if self.is_own else [],
        )

    def own(self, path: Path) -> None:
        """Give `path` to this user."""
        if not self.is_own:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def can_reach(self, path: Path) -> bool:
        """Whether the kernel lets this user through to `path` and, being a folder or a program, into it."""
        command = ["test", "-x", str(path)]
        if self.is_own:
            return subprocess.run(command, check=False).returncode == 0
        done = subprocess.run(command, check=False, cwd="/", user=self.uid, group=self.gid, extra_groups=[])
        return done.returncode == 0

    def find_closed_folder(self, path: Path) -> Path | None:
        """The outermost folder on the way to `path` (itself included) that does not let this user through."""
        if self.can_reach(path):
            return None
        return next((part for part in [*reversed(path.parents), path] if not self.can_reach(part)), path)


def get_server_account(data: Path, log: Path) -> ServerAccount:
    """The user that owns `data`, or who is to own it where it does not exist yet.

    An ordinary user runs the server under the own name. Root runs it as the owner of `data`, else as `postgres`, else
    as `nobody`. Raises EmbeddedDatabaseFailed where no user can be had that way.
    """
    own_uid = os.geteuid()
    owner = data.stat() if data.exists() else None
    if own_uid != ROOT_UID:
        account = ServerAccount(own_uid, os.getegid())
        if owner is not None and owner.st_uid != own_uid:
            owner_name = ServerAccount(owner.st_uid, owner.st_gid).name
            reason = (
                f"{data} belongs to user {owner_name} and this is user {account.name}; run the command as {owner_name} "
                "or set MILLRACE_HOME to another folder"
            )
            raise EmbeddedDatabaseFailed("start", reason, str(log))
        return account
    if owner is not None and owner.st_uid != ROOT_UID:
        return ServerAccount(owner.st_uid, owner.st_gid)
    if owner is not None:
        reason = f"{data} belongs to root, and PostgreSQL refuses to run as root; give the folder to an ordinary user"
        raise EmbeddedDatabaseFailed("start", reason, str(log))
    accounts = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != ROOT_UID}
    for name in ACCOUNTS_FOR_ROOT:
        if name in accounts:
            return ServerAccount(accounts[name].pw_uid, accounts[name].pw_gid)
    reason = (
        "PostgreSQL refuses to run as root and there is no user postgres or nobody; run the command as another user"
    )
    raise EmbeddedDatabaseFailed("start", reason, str(log))
