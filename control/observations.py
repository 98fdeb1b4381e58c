"""Data in over HTTP: a file of rows, stored as a whole or refused as a whole."""

import re
from collections.abc import Sequence
from pathlib import PurePath

from fastapi import APIRouter, UploadFile
from pydantic import Field

from control.documents import Answer, describe_problems
from control.requests import Actor, DeclaredContract, OpenConnections
from ingestion.importing import import_file
from web.bodies import BodyTooLarge

_PATH = "/models/{model}/observations"
_LONGEST_NAME = 200

router = APIRouter(tags=["observations"], responses=describe_problems(403, 404, 413))


class ImportDocument(Answer):
    """What an import stored. Rows that were stored already, with the same values, are unchanged."""

    rows_new: int
    rows_changed: int
    rows_unchanged: int
    ignored_columns: Sequence[str] = Field(description="Columns of the file that the model does not have")


def takes_file(path: str) -> bool:
    """Whether a request to this path brings a file."""
    return path.endswith("/observations")


@router.post(_PATH, status_code=201, summary="Bring in a file of rows")
def import_observations(
    contract: DeclaredContract, connections: OpenConnections, actor: Actor, file: UploadFile
) -> ImportDocument:
    """Check every row of a CSV file against the model's contract and store them all; one bad row refuses the file.

    The problem then names line, column, value and rule. Sending the same file again changes nothing.
    """
    max_bytes = connections.settings.max_upload_bytes
    if file.size is None or file.size > max_bytes:
        raise BodyTooLarge(max_bytes)
    result = import_file(
        connections.engine,
        contract,
        file.file,
        name=_clean_name(file.filename),
        actor=actor,
        kind="rest",
        max_bytes=max_bytes,
    )
    return ImportDocument.model_validate(result)


def _clean_name(given: str | None) -> str:
    """The file's own name as records may hold it: without folders, and nothing but plain characters."""
    name = re.sub(r"[^\w .()+,=@-]", "_", PurePath((given or "").replace("\\", "/")).name).strip()
    return name[:_LONGEST_NAME] or "upload"
