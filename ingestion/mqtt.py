"""From a broker into the store: messages are acknowledged when the transaction that keeps them has committed.

Whatever fails in between (this process, the broker, the database) leaves messages unacknowledged, and the broker
delivers them again; rows that were stored already are unchanged by that. So nothing is lost and nothing stored twice.
While the database is away nothing is read: the connection is closed, and the session keeps what comes.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import psycopg
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from core.contract import Contract
from core.data_errors import BrokerUnavailable
from core.subscribers import write_subscriber
from ingestion.batches import Batch, store_batch
from ingestion.broker_connection import Broker, BrokerConnection, Message
from ingestion.faults import RowFault
from ingestion.messages import Feed, MessageReader, MessageRow
from ingestion.outcomes import OUTCOMES, store_outcomes

logger = logging.getLogger(__name__)

FLUSH_MESSAGES = 500
FLUSH_BYTES = 8 << 20
FLUSH_S = 0.5
QUIET_S = 0.02
QUIET_MESSAGES = 10
"""So many are stored as soon as no more come: a broker whose limit of messages in flight is reached sends none."""

_REPORT_EVERY_S = 5.0
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 10.0


@dataclass
class Taken:
    """What a subscriber has done since it started. Messages of topics that no workload declares are `unknown`."""

    messages: int = 0
    rows_new: int = 0
    rows_rejected: int = 0
    unknown: int = 0


@dataclass
class Subscriber:
    """Takes messages from one broker for all `feeds`, under one client id; `say` receives what a person wants to know.

    At most FLUSH_MESSAGES are held in memory. They are stored when there are so many, when they grow beyond
    FLUSH_BYTES, when the oldest has waited for FLUSH_S, or when no more come.
    """

    engine: Engine
    broker: Broker
    feeds: Sequence[Feed]
    say: Callable[[str], None] = logger.info
    taken: Taken = field(default_factory=Taken)

    def __post_init__(self) -> None:
        self._reader = MessageReader(self.feeds)
        self._contracts: dict[str, Contract] = {feed.contract.model: feed.contract for feed in self.feeds}
        self._filters = sorted({feed.subscription.topic_filter for feed in self.feeds})
        self._reported_at_s = 0.0

    def run(self, stopping: threading.Event) -> None:
        """Take messages until `stopping` is set, then store and acknowledge what was read and leave."""
        delay_s = _FIRST_DELAY_S
        while not stopping.is_set():
            began_at_s = time.monotonic()
            try:
                self._check_database()
                connection = BrokerConnection(self.broker, self._filters)
                self.say(
                    f"connected to {self.broker} with MQTT {connection.version}, topics {', '.join(self._filters)}"
                )
                try:
                    self._pump(connection, stopping)
                finally:
                    connection.close()
                return
            except BrokerUnavailable as error:
                reason = f"waiting for the broker: {error.sentence}"
            except (DBAPIError, psycopg.Error) as error:
                if _is_refusal(error):
                    raise
                reason = f"waiting for the database, nothing is read or acknowledged meanwhile: {_word(error)}"
            if time.monotonic() - began_at_s > _LONGEST_DELAY_S:
                delay_s = _FIRST_DELAY_S
            logger.warning("%s", reason)
            self.say(reason)
            stopping.wait(delay_s)
            delay_s = min(delay_s * 2, _LONGEST_DELAY_S)

    def _check_database(self) -> None:
        with self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def _pump(self, connection: BrokerConnection, stopping: threading.Event) -> None:
        held: list[tuple[Message, datetime]] = []
        held_bytes, since_s = 0, 0.0
        while True:
            now_s = time.monotonic()
            if not held:
                since_s = now_s
            wait_s = FLUSH_S - (now_s - since_s) if len(held) < QUIET_MESSAGES else QUIET_S
            messages = connection.receive(FLUSH_MESSAGES - len(held), max(wait_s, 0.0))
            arrived_at = datetime.now(UTC)
            held += [(message, arrived_at) for message in messages]
            held_bytes += sum(len(message.payload) for message in messages)
            is_full = len(held) >= FLUSH_MESSAGES or held_bytes >= FLUSH_BYTES
            is_quiet = not messages and len(held) >= QUIET_MESSAGES
            is_due = time.monotonic() - since_s >= FLUSH_S
            if held and (is_full or is_quiet or is_due or stopping.is_set()):
                self._store(held)
                connection.acknowledge([message.mid for message, _ in held])
                self.taken.messages += len(held)
                held, held_bytes = [], 0
            self._report()
            if stopping.is_set():
                return

    def _store(self, held: Sequence[tuple[Message, datetime]]) -> None:
        rows: dict[tuple[str, str], list[MessageRow]] = {}
        for message, arrived_at in held:
            found = self._reader.read(message.topic, message.payload, arrived_at)
            if not found:
                # Of an earlier declaration: the session still has its subscription.
                self.taken.unknown += 1
                logger.warning("no workload declares topic %r; its message is acknowledged and not kept", message.topic)
            for row in found:
                rows.setdefault((row.model, row.brings), []).append(row)
        for (model, _), alike in rows.items():
            self._store_rows(self._contracts[model], alike)

    def _store_rows(self, contract: Contract, rows: Sequence[MessageRow]) -> None:
        """Store rows that bring the same."""
        batch = Batch(
            raw=[row.raw for row in rows],
            entries=[row.entry for row in rows],
            kind="mqtt",
            name=str(self.broker),
            actor=self.broker.client_id,
            later_wins=True,
        )
        try:
            taken = self._store_batch(contract, batch, rows[0].brings)
        except (DBAPIError, psycopg.Error) as error:
            is_hopeless = len(rows) == 1 and isinstance(rows[0].entry, RowFault)
            if is_hopeless or not _is_refusal(error):
                raise
            # A row that the checks let through and the database does not: it must not hold up all others for ever.
            if len(rows) > 1:
                middle = len(rows) // 2
                self._store_rows(contract, rows[:middle])
                self._store_rows(contract, rows[middle:])
                return
            fault = RowFault(1, "", rows[0].raw[:1_000].decode(), f"the database does not take it: {_word(error)}")
            self._store_rows(contract, [replace(rows[0], entry=fault)])
            return
        rows_new, rows_rejected, faults = taken
        self.taken.rows_new += rows_new
        self.taken.rows_rejected += rows_rejected
        if rows_rejected:
            first = faults[0].to_fault()
            logger.warning("%s: %s messages rejected, first %s", contract.model, rows_rejected, first)

    def _store_batch(self, contract: Contract, batch: Batch, brings: str) -> tuple[int, int, Sequence[RowFault]]:
        """New rows, rejected ones, and what is wrong with them."""
        if brings == OUTCOMES:
            outcomes = store_outcomes(self.engine, contract, batch)
            return outcomes.outcomes_new, outcomes.outcomes_rejected, outcomes.rejected
        result = store_batch(self.engine, contract, batch)
        if result.gaps:
            logger.info("%s: %s rows came without the step before them", contract.model, result.gaps)
        return result.rows_new, result.rows_rejected, result.rejected

    def _report(self) -> None:
        now_s = time.monotonic()
        if now_s - self._reported_at_s < _REPORT_EVERY_S:
            return
        self._reported_at_s = now_s
        with self.engine.begin() as connection:
            write_subscriber(
                connection, self.broker.client_id, str(self.broker), self.taken.messages, self.taken.rows_rejected
            )


def _is_refusal(error: DBAPIError | psycopg.Error) -> bool:
    """Whether it is what was sent that is wrong, so that sending it again later will not help."""
    refusals = (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError, psycopg.NotSupportedError)
    return isinstance(error.orig if isinstance(error, DBAPIError) else error, refusals)


def _word(error: DBAPIError | psycopg.Error) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]
