"""Keeps the directory of accounts in memory, a second behind the database at most, and without it what was known."""

import logging
import os
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import orjson
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from core.api_tokens import note_uses
from core.directory import Directory, KnownToken, build_known_token, load_change, load_directory
from core.principals import Principal
from web.health import HealthCheck

logger = logging.getLogger(__name__)

_LOOK_S = 1.0
_USE_NOTED_S = 60.0
_STOP_TIMEOUT_S = 10.0
_TOKEN_NAME = len("token:")
_MOST_VERIFIED = 20_000


@dataclass(frozen=True)
class Verified:
    """A credential that was checked once; `token_id` is that of an API token."""

    principal: Principal
    expires_at_s: float
    token_id: uuid.UUID | None = None


@dataclass(frozen=True)
class Known:
    """The directory, and what was verified by it: a change of accounts forgets that as a whole."""

    directory: Directory
    verified: dict[bytes, Verified] = field(default_factory=dict)

    def keep(self, digest: bytes, verified: Verified) -> None:
        """Remember a credential by its hash."""
        if len(self.verified) >= _MOST_VERIFIED:
            self.verified.clear()
        self.verified[digest] = verified


class DirectoryFollower:
    """One thread that looks for changes. `path`, where given, keeps the tokens' hashes for a start with all away."""

    def __init__(self, engine: Engine, path: Path | None = None) -> None:
        self._engine = engine
        self._path = path
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._fault = ""
        self._noted_s: dict[int, float] = {}
        self._used: dict[uuid.UUID, datetime] = {}
        self._thread = threading.Thread(target=self._run, name="accounts", daemon=True)
        self.looked_at_s = float("-inf")
        """When the last look that succeeded began, by the monotonic clock."""
        self.known = None if path is None else _load_file(path)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._woken.set()
        self._thread.join(_STOP_TIMEOUT_S)

    def wake(self) -> None:
        """Have the thread look now."""
        self._woken.set()

    def look(self) -> None:
        """Read the accounts, if they have changed; without the database what is known stays."""
        with self._lock:
            began_s = time.monotonic()
            try:
                with self._engine.begin() as connection:
                    known = self.known
                    is_whole = known is not None and known.directory.signing_key is not None
                    if known is None or not is_whole or load_change(connection) != known.directory.change:
                        self._publish(Known(load_directory(connection)))
                    note_uses(connection, self._take_uses())
            except SQLAlchemyError as error:
                if not self._fault:
                    logger.warning("accounts are not followed: %s", type(error).__name__)
                self._fault = "the database does not answer; who was known is known still"
                return
            self._fault = ""
            self.looked_at_s = began_s

    def note_use(self, token_id: uuid.UUID) -> None:
        """Note that a token was used; written at most once a minute for each."""
        now_s = time.monotonic()
        # By the number in the id: an id's own comparison is a function of Python, twice a request.
        key = token_id.int
        if now_s - self._noted_s.get(key, -_USE_NOTED_S) >= _USE_NOTED_S:
            self._noted_s[key] = now_s
            self._used[token_id] = datetime.now(UTC)

    def build_check(self) -> HealthCheck:
        """Health of following accounts."""
        if self.known is None:
            return HealthCheck("accounts", "failed", self._fault or "looking at the accounts for the first time")
        return HealthCheck("accounts", "degraded" if self._fault else "ok", self._fault or "they are followed")

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                self.look()
            except Exception:
                # Whatever it is, the next look may succeed.
                logger.exception("following the accounts failed")
            self._woken.wait(_LOOK_S)
        self.look()

    def _publish(self, known: Known) -> None:
        self.known = known
        if self._path is not None:
            try:
                _store_file(self._path, known.directory)
            except OSError:
                logger.exception("the tokens' hashes cannot be kept for the next start")

    def _take_uses(self) -> dict[uuid.UUID, datetime]:
        used, self._used = self._used, {}
        return used


def _store_file(path: Path, directory: Directory) -> None:
    """Hashes, names, roles and scopes of tokens; no key that could sign anything."""
    partial = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    # Never readable by others, not even for a moment.
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
        file.write(orjson.dumps([_describe(digest, token) for digest, token in directory.tokens.items()]))
    partial.replace(path)


def _load_file(path: Path) -> Known | None:
    try:
        stored = orjson.loads(path.read_bytes())
        tokens = dict(map(_read, stored))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        logger.exception("the kept hashes of tokens cannot be read; requests wait for the database")
        return None
    return Known(Directory(-1, tokens, {}, frozenset(), None))


def _describe(digest: bytes, token: KnownToken) -> dict[str, object]:
    expires_at_s = None if token.expires_at_s == float("inf") else token.expires_at_s
    return {
        "hash": digest.hex(),
        "id": str(token.id),
        "name": token.principal.name[_TOKEN_NAME:],
        "role": token.principal.role.word,
        "scopes": token.principal.scopes.words,
        "expires_at_s": expires_at_s,
    }


def _read(entry: Mapping[str, object]) -> tuple[bytes, KnownToken]:
    expires_at_s = entry["expires_at_s"]
    expires_at = datetime.fromtimestamp(float(str(expires_at_s)), UTC) if expires_at_s is not None else None
    scopes = entry["scopes"]
    if not isinstance(scopes, list):
        raise TypeError(scopes)
    token = build_known_token(uuid.UUID(str(entry["id"])), str(entry["name"]), str(entry["role"]), scopes, expires_at)
    return bytes.fromhex(str(entry["hash"])), token
