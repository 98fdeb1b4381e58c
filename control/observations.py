"""Data in over HTTP: a file of rows, stored as a whole or refused as a whole."""

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import PurePath
from typing import Annotated

from fastapi import APIRouter, Depends, Form, UploadFile
from pydantic import Field

from control.documents import Answer, describe_problems
from control.requests import Actor, DeclaredContract, OpenConnections
from core.principals import Role
from ingestion.encodings import Encoding
from ingestion.importing import import_file
from web.bodies import BodyTooLarge
from web.principal import require

_PATH = "/models/{model}/observations"
_LONGEST_NAME = 200


router = APIRouter(
    tags=["observations"],
    responses=describe_problems(403, 404, 413),
    dependencies=[Depends(require(Role.OPERATOR))],
)


class GapDocument(Answer):
    """A place where the series misses steps, between two rows that are there."""

    entity: str = Field(description="Whose series; empty where the model has one")
    after_at: datetime
    at: datetime


class ImportDocument(Answer):
    """What an import stored. Rows that were stored already, with the same values, are unchanged."""

    rows_new: int
    rows_changed: int
    rows_unchanged: int
    rows_repeated: int = Field(description="Rows that repeated an earlier one of the file")
    rows_rejected: int = Field(
        description="Rows left out for having the key of an earlier one and other values, where the model allows that"
    )
    sample_rows_replaced: int = Field(description="Rows of sample data that these rows have replaced")
    gaps: int = Field(description="Places where the series misses steps, where the model allows any")
    first_gaps: Sequence[GapDocument]
    ignored_columns: Sequence[str] = Field(description="Columns of the file that the model does not have")


def takes_file(path: str) -> bool:
    """Whether a request to this path brings a file."""
    return path.endswith(("/observations", "/outcomes"))


# Documented with the rows: OpenAPI has one operation for an address and a method.
@router.post(_PATH, status_code=201, include_in_schema=False)
def import_observations(
    contract: DeclaredContract,
    connections: OpenConnections,
    actor: Actor,
    file: UploadFile,
    encoding: Annotated[
        Encoding | None, Form(description="Of a CSV file; without it UTF-8, or UTF-16 by its byte order mark")
    ] = None,
    sheet: Annotated[str | None, Form(description="Of a workbook; without it the first", max_length=100)] = None,
) -> ImportDocument:
    """Check every row of a CSV, XLSX, Parquet or JSON file against the model's contract and store them all.

    One bad row refuses the file. The problem then names line, column, value and rule. Sending the same file again
    changes nothing.
    """
    max_bytes = connections.settings.max_upload_bytes
    if file.size is None or file.size > max_bytes:
        raise BodyTooLarge(max_bytes)
    result = import_file(
        connections.engine,
        contract,
        file.file,
        name=clean_name(file.filename),
        actor=actor,
        kind="rest",
        encoding=encoding,
        sheet=sheet,
        max_bytes=max_bytes,
    )
    return ImportDocument.model_validate(result)


def clean_name(given: str | None) -> str:
    """The file's own name as records may hold it: without folders, and nothing but plain characters."""
    name = re.sub(r"[^\w .()+,=@-]", "_", PurePath((given or "").replace("\\", "/")).name).strip()
    return name[:_LONGEST_NAME] or "upload"
