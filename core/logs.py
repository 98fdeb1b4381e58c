"""Structured logs of every process: one JSON object a line, or plain text for a person."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

from core.settings import Settings

_QUIET = ("httpx", "httpcore", "alembic.runtime.migration", "procrastinate", "urllib3", "botocore", "uvicorn.access")


def configure_logs(settings: Settings, process: str) -> None:
    """Send every log record of this process to standard error, with the name of the process in it."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        formatter: logging.Formatter = JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "at", "levelname": "level", "name": "logger"},
            static_fields={"process": process},
        )
    else:
        formatter = logging.Formatter(f"%(asctime)s {process} %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
