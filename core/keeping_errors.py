"""Errors of backup, restore, upgrade and clean-up."""

from collections.abc import Sequence

from core.errors import Conflict, InvalidInput, NotFound, StepFailed, Unavailable, show_value

_SHOWN = 5


class BackupNotFound(NotFound):
    """There is no file where a backup was said to be."""

    def __init__(self, path: str) -> None:
        super().__init__(f"There is no backup at {path}.")


class NothingToBackUp(NotFound):
    """The home has no database yet."""

    def __init__(self, home: str) -> None:
        super().__init__(f"There is nothing to back up: {home} has no database, and DATABASE_URL names none.")


class BackupExists(Conflict):
    """A backup never takes the place of a file."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} exists, and a backup replaces nothing; give another name, or a folder.")


class BackupUnderWay(Conflict):
    """Another process writes the same backup."""

    def __init__(self, path: str) -> None:
        super().__init__(f"Another process writes the backup {path}; wait until it has ended.")


class BackupFailed(StepFailed):
    """A backup could not be completed; nothing is left under its name."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"The backup was not made: {step} failed ({reason}). Nothing is left under its name.")


class BackupDamaged(InvalidInput):
    """A backup is not what was written; `part` names the first place."""

    def __init__(self, path: str, part: str, reason: str) -> None:
        self.part = part
        super().__init__(f"The backup {path} is damaged: {part} {reason}. Nothing was restored; use another backup.")


class BackupTooNew(InvalidInput):
    """A backup of a later Millrace, or of a database server that this one cannot follow."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"The backup {path} cannot be restored here: {reason}.")


class TargetNotEmpty(Conflict):
    """A restore goes to an empty machine alone."""

    def __init__(self, what: str, found: Sequence[str], total: int) -> None:
        names = ", ".join(found[:_SHOWN])
        rest = "" if total <= _SHOWN else f" and {total - _SHOWN} more"
        super().__init__(
            f"Nothing was restored: {what} is not empty, it holds {names}{rest}. A restore replaces nothing; give it "
            "an empty MILLRACE_HOME, an empty MILLRACE_ARTIFACTS and empty databases."
        )


class RestoreFailed(StepFailed):
    """A restore could not be completed; it can be run again."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"The restore ended at {step}: {reason}. Run the same command again when that is mended.")


class DatabaseProgramMissing(Unavailable):
    """PostgreSQL's own program for a dump or its restoring is not installed, or too old for the server."""

    def __init__(self, program: str, server_major: int) -> None:
        super().__init__(
            f"{program} of PostgreSQL {server_major} or later is needed; install PostgreSQL's client programs of that "
            "version, or millrace[keeping]."
        )


class SchemaOutdated(Conflict):
    """The database is of an earlier Millrace or MLflow."""

    def __init__(self, database: str, found: str, needed: str) -> None:
        super().__init__(
            f"The {database} database has schema {found} and this installation needs {needed}. Stop the platform and "
            "run `millrace upgrade --backup FOLDER`."
        )


class SchemaTooNew(Conflict):
    """The database is of a later Millrace or MLflow: this one would damage it."""

    def __init__(self, database: str, found: str, known: str) -> None:
        super().__init__(
            f"The {database} database has schema {show_value(found)}, which this installation does not know; it goes "
            f"up to {known}. Install the version that wrote it, or a later one."
        )


class UpgradeNeedsBackup(Conflict):
    """A schema is not changed before there is a way back."""

    def __init__(self, changes: Sequence[str]) -> None:
        super().__init__(
            f"To be upgraded: {'; '.join(changes)}. There is no way back but a backup: add `--backup FOLDER` to make "
            "one first, or `--without-backup` if you have one."
        )


class PlatformRuns(Conflict):
    """What needs the platform stopped found a part of it running."""

    def __init__(self, act: str, parts: Sequence[str]) -> None:
        super().__init__(f"{act} needs the platform stopped, and there runs still: {', '.join(parts)}.")


class KeepingUnderWay(Conflict):
    """A backup and a clean-up exclude each other: the one copies what the other removes."""

    def __init__(self) -> None:
        super().__init__("A backup or a clean-up is under way; run this again when it has ended.")
