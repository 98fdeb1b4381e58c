"""The process that ships the journal: `python -m serving.shipping_process`, a child of each serving process.

A process of its own, because what shipping computes would be taken from the requests that come meanwhile. One of a
machine's shippers works at a time. It reads the settings and DATABASE_URL from its environment, and ends when its
standard input does, with its parent: what a parent that was killed had recorded is still shipped by its child.
"""

import logging
import os
import select
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
import psycopg
from sqlalchemy.exc import OperationalError

from core.database import create_database_engine
from core.logs import configure_logs
from core.settings import Settings, load_settings
from serving.journal import take_lock
from serving.outages import Outage
from serving.shipping import Shipper
from serving.version_cache import write_atomically

logger = logging.getLogger(__name__)

_INTERVAL_S = 0.5
_LONGEST_WAIT_S = 5.0
_NICENESS = 5
_LOCK_FILE = "shipping.lock"
_STATE_FILE = "shipping.json"


@dataclass(frozen=True)
class ShippingState:
    """How the last attempt on this machine went; both are empty where it went well."""

    outage: str = ""
    fault: str = ""


def load_state(root: Path) -> ShippingState:
    """How shipping of the journals in `root` goes; well, where it was never said."""
    try:
        return ShippingState(**orjson.loads((root / _STATE_FILE).read_bytes()))
    except FileNotFoundError:
        return ShippingState()


def run_shipping(settings: Settings, database_url: str) -> None:
    """Ship until standard input ends, then once more."""
    root = settings.journal_folder
    engine = create_database_engine(database_url, pool_size=1)
    shipper = Shipper(engine, root)
    outage = Outage("the database", "The journal keeps what is served until it is back")
    state = load_state(root)
    lock = os.open(root / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    is_ours = False
    wait_s = _INTERVAL_S
    is_ending = False
    while not is_ending:
        is_ending = bool(select.select([sys.stdin], [], [], wait_s)[0])
        is_ours = is_ours or take_lock(lock)
        if not is_ours:
            continue
        now = _attempt(shipper, outage)
        wait_s = _INTERVAL_S if now == ShippingState() else min(wait_s * 2, _LONGEST_WAIT_S)
        if now != state:
            state = now
            write_atomically(root / _STATE_FILE, orjson.dumps(asdict(state)))
    engine.dispose()


def _attempt(shipper: Shipper, outage: Outage) -> ShippingState:
    try:
        shipper.ship_once()
    except (OperationalError, psycopg.OperationalError) as error:
        outage.begin(error)
        return ShippingState(outage=outage.cause)
    except Exception:
        # Whatever it is, requests go on being recorded, and the next attempt starts from the same offset.
        logger.exception("shipping the journal failed")
        return ShippingState(fault="the last attempt to ship it failed, the log says why")
    outage.end()
    return ShippingState()


def main() -> None:
    # Requests come before what is told of them.
    os.nice(_NICENESS)
    settings = load_settings()
    configure_logs(settings, "serving-shipping")
    run_shipping(settings, os.environ["DATABASE_URL"])


if __name__ == "__main__":
    main()
