"""A database that is away, as a typed error: routes use it without a word about it."""

import logging

import psycopg
from fastapi import FastAPI
from sqlalchemy import URL
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.requests import Request
from starlette.responses import Response

from core.errors import DatabaseUnavailable
from web.problems import build_problem
from web.request_ids import get_request_id

logger = logging.getLogger(__name__)

DATABASE_ERRORS = (OperationalError, InterfaceError, PoolTimeout, psycopg.OperationalError, psycopg.InterfaceError)


def install_database_outages(app: FastAPI, url: URL) -> None:
    """Answer as DatabaseUnavailable what the database's drivers raise when it cannot be reached or goes away."""

    async def answer(request: Request, error: Exception) -> Response:
        request_id = get_request_id(request.scope)
        # What the driver says may name folders of this machine: it is for the log.
        logger.warning("the database does not answer request %s: %s", request_id, error)
        return build_problem(build_outage(url), request_id)

    for kind in DATABASE_ERRORS:
        app.add_exception_handler(kind, answer)


def build_outage(url: URL) -> DatabaseUnavailable:
    """The error that says that the database at `url` is away, without its password or its folder."""
    address = f"{url.host}:{url.port or 5432}" if url.host else "its local socket"
    return DatabaseUnavailable(address, "it takes no connection, or lost the one it had")
