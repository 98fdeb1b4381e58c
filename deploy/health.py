"""The health check of a container: `python deploy/health.py PROCESS` exits 0 where the process does its work.

Serving, control and tracking are asked over HTTP whether they live: one that lacks a model or the database must not be
restarted for it. The others listen on nothing: a worker is healthy while workers give their heartbeat to the queue, the
subscriber while it writes that it is connected to its broker. It imports nothing of the project, because it runs every
few seconds.
"""

import os
import sys
import urllib.request

TIMEOUT_S = 5
DOORS = {
    "serving": ("MILLRACE_SERVING_PORT", 8000, "/health/live"),
    "control": ("MILLRACE_CONTROL_PORT", 8001, "/health/live"),
    "tracking": ("MILLRACE_TRACKING_PORT", 5000, "/health"),
}
"""Of each process that answers over HTTP: the variable of its port, its port without that, and the path to ask."""
WORKER_TIMEOUT = ("MILLRACE_WORKER_TIMEOUT_S", 30.0)
CLIENT_ID = ("MILLRACE_MQTT_CLIENT_ID", "millrace-ingest")


def main() -> int:
    """Check the process named on the command line; what is wrong is said by the exception that ends this."""
    process = sys.argv[1]
    if process == "worker":
        return check_worker()
    if process == "ingest":
        return check_ingest()
    variable, port, path = DOORS[process]
    address = f"http://127.0.0.1:{os.environ.get(variable, port)}{path}"
    with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
        return 0 if answer.status == 200 else 1


def check_worker() -> int:
    """0 where a worker gave a heartbeat within the time after which one is taken for dead."""
    variable, default = WORKER_TIMEOUT
    return _find(
        "SELECT 1 FROM procrastinate_workers WHERE last_heartbeat > now() - make_interval(secs => %s) LIMIT 1",
        float(os.environ.get(variable, default)),
    )


def check_ingest() -> int:
    """0 where this subscriber was connected to its broker and to the database a little while ago."""
    variable, default = CLIENT_ID
    return _find(
        "SELECT 1 FROM subscribers WHERE client_id = %s AND seen_at > now() - make_interval(secs => 30)",
        os.environ.get(variable, default),
    )


def _find(query: str, value: object) -> int:
    import psycopg

    address = os.environ["DATABASE_URL"].replace("postgresql+psycopg://", "postgresql://", 1)
    with psycopg.connect(address, connect_timeout=TIMEOUT_S) as connection:
        return 0 if connection.execute(query, [value]).fetchone() else 1


if __name__ == "__main__":
    sys.exit(main())
