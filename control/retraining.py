"""A file and the training on it in one request: `POST /models/{model}/retrain`."""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, cast

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import Field
from sqlalchemy import Connection
from starlette.datastructures import FormData, UploadFile

from control.documents import Answer, describe_problems
from control.observations import ImportDocument, clean_name
from control.requests import Actor, DeclaredContract, OpenConnections
from control.trainings import TrainingDocument, build_document, check_can_continue
from control.waiting import LONGEST_WAIT_S, TrainingEnds
from core.connections import Connections
from core.contract import Contract
from core.errors import Fault, show_value
from core.parameters import UPLOAD_FIELDS, read_upload_fields
from core.principals import Role
from core.training_errors import TrainingWithoutVersion
from core.trainings import (
    CONTINUE,
    VERSION_NAME,
    WHERE_POSSIBLE,
    Training,
    find_whether_included,
    get_training,
    request_training,
)
from core.version_names import check_name_is_free, load_version_names
from ingestion.encodings import Encoding
from ingestion.importing import ImportResult, import_file
from web.bodies import BodyTooLarge, WrongMediaType
from web.principal import require
from web.problems import InvalidFields

_PATH = "/models/{model}/retrain"
IMPORTS_AT_ONCE = 4
"""Files that one process imports at once; more of them wait without a thread and without a connection."""

_CHOICES: dict[str, tuple[str, ...]] = {"mode": ("continue", "anew"), "encoding": ("utf-8", "latin-1", "windows-1252")}
_LONGEST_TEXT = 100
_MOST_FILES, _MOST_FIELDS = 8, 32
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?=[,;]|$)", re.IGNORECASE)

router = APIRouter(tags=["trainings"], responses=describe_problems(403, 404, 409, 413))


class RetrainDocument(Answer):
    """What became of the file, and the training that answers the request."""

    message: str = Field(description="What happened, in words")
    imported: ImportDocument
    source_id: uuid.UUID = Field(description="Under which the file is kept; the same file again has the same")
    training: TrainingDocument
    is_new: bool = Field(description="Whether this request started the training; else one was queued or running")
    includes_file: bool | None = Field(
        description="Whether the training is on the rows of this file; null where it was reading the rows just then"
    )
    version: Annotated[int | None, Field(description="The new version")] = None
    version_name: Annotated[str | None, Field(description="The name of the new version")] = None
    model_uri: Annotated[str | None, Field(description="The new version, as MLflow's clients load it")] = None
    version_url: Annotated[str | None, Field(description="The new version's page in MLflow")] = None


@dataclass(frozen=True)
class _Order:
    """The form of a request, checked."""

    file: UploadFile
    parameters: dict[str, object]
    version_name: str | None
    encoding: Encoding | None
    sheet: str | None


@dataclass(frozen=True)
class _Taken:
    """What one transaction stored: the rows, and the training that is to use them."""

    imported: ImportResult
    training: Training
    is_new: bool
    includes_file: bool | None


def takes_file(path: str) -> bool:
    """Whether a request to this path brings a file."""
    return path.endswith("/retrain")


_FIELDS: Mapping[str, Mapping[str, object]] = {
    "file": {"type": "string", "format": "binary", "description": "CSV, XLSX, Parquet or JSON"},
    "epochs": {"type": "integer", "description": "Most passes over the training part: parameter max_epochs"},
    "batch_size": {"type": "integer", "description": "Rows in one step"},
    "mode": {
        "type": "string",
        "enum": list(_CHOICES["mode"]),
        "description": "Continue the weights of the version in Production, or train anew on all rows; without it "
        "they are continued where there are any that fit",
    },
    "version_name": {"type": "string", "description": "Name of the new version; the day's without it"},
    "encoding": {"type": "string", "enum": list(_CHOICES["encoding"]), "description": "Of a CSV file"},
    "sheet": {"type": "string", "description": "Of a workbook; without it the first"},
}
_FORM = {"type": "object", "required": ["file"], "additionalProperties": False, "properties": _FIELDS}


@router.post(
    _PATH,
    status_code=202,
    summary="Bring in a file of rows and train on it",
    dependencies=[Depends(require(Role.OPERATOR))],
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
    responses={
        200: {"model": RetrainDocument, "description": "The training ended within the time that was waited"},
        202: {"description": "The rows are stored and the training is under way; Location says where to follow it"},
    },
)
async def retrain(
    request: Request,
    contract: DeclaredContract,
    connections: OpenConnections,
    actor: Actor,
    response: Response,
    wait: Annotated[
        int | None, Query(ge=0, le=LONGEST_WAIT_S, description="Seconds to wait for the end of the training")
    ] = None,
    prefer: Annotated[str | None, Header(description=f"`wait=N`, at most {LONGEST_WAIT_S} are waited")] = None,
) -> RetrainDocument:
    """Check the file as every import is, store its rows, and request a training, in one transaction.

    One bad row refuses the file, and nothing is trained. While a training of the model is queued or running the rows
    are stored and that training is the answer; `includes_file` says whether it is on them. A training that was waited
    for and failed is answered with 409.
    """
    _check_media_type(request)
    async with request.form(max_files=_MOST_FILES, max_fields=_MOST_FIELDS) as form:
        order = _read_form(contract, form)
        slots: CapacityLimiter = request.app.state.import_slots
        taken = await to_thread.run_sync(_take, connections, contract, order, actor, limiter=slots)
    training = taken.training
    response.headers["Location"] = f"/trainings/{training.id}"
    preferred_s = None if wait is not None else _find_preferred_wait(prefer)
    wait_s = wait or preferred_s
    if wait_s:
        ends: TrainingEnds = request.app.state.training_ends
        if await ends.wait(training.id, wait_s) and preferred_s is not None:
            response.headers["Preference-Applied"] = f"wait={preferred_s}"
    document = await run_in_threadpool(_build_answer, connections, taken)
    response.status_code = 202 if document.version is None else 200
    return document


def _check_media_type(request: Request) -> None:
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "multipart/form-data":
        raise WrongMediaType(given, "multipart/form-data with a field named file")


def _find_preferred_wait(prefer: str | None) -> int | None:
    """Seconds of the preference `wait` (RFC 7240), at most LONGEST_WAIT_S; None for what is no such preference."""
    found = _WAIT.search(prefer or "")
    return None if found is None else min(int(found[1]), LONGEST_WAIT_S)


def _read_form(contract: Contract, form: FormData) -> _Order:
    """The order in the form; raises InvalidFields for what is missing, given twice or not known."""
    faults: list[Fault] = []
    texts: dict[str, str] = {}
    files = []
    for name, value in form.multi_items():
        if name == "file":
            files.append(value)
        elif name not in _FIELDS:
            allowed = ", ".join(_FIELDS)
            faults.append(Fault(show_value(name), show_value(value), f"there is no such field; known are {allowed}"))
        elif not isinstance(value, str):
            faults.append(Fault(name, "a file", "a text is expected; only the field file is a file"))
        elif name in texts:
            faults.append(Fault(name, show_value(value), "it is given twice"))
        elif len(value) > _LONGEST_TEXT or "\0" in value:
            faults.append(Fault(name, show_value(value), f"at most {_LONGEST_TEXT} characters are expected"))
        elif name in _CHOICES and value not in _CHOICES[name]:
            faults.append(Fault(name, show_value(value), f"allowed are {', '.join(_CHOICES[name])}"))
        else:
            texts[name] = value
    uploads = [file for file in files if isinstance(file, UploadFile)]
    if len(files) != 1:
        faults.append(Fault("file", f"{len(files)} of them", "exactly one file is needed"))
    elif not uploads:
        faults.append(Fault("file", "a text", "a file is needed, as in -F file=@new.csv"))
    if faults:
        raise InvalidFields(faults)
    fields = {name: texts[name] for name in UPLOAD_FIELDS if name in texts}
    parameters: dict[str, object] = dict(read_upload_fields(contract.parameters, fields))
    parameters[CONTINUE] = (
        check_can_continue(contract) if texts.get("mode") == "continue" else 0 if "mode" in texts else WHERE_POSSIBLE
    )
    encoding = cast("Encoding | None", texts.get("encoding"))
    return _Order(uploads[0], parameters, texts.get("version_name"), encoding, texts.get("sheet"))


def _take(connections: Connections, contract: Contract, order: _Order, actor: str) -> _Taken:
    """Store the rows and request the training, both or neither."""
    max_bytes = connections.settings.max_upload_bytes
    if order.file.size is None or order.file.size > max_bytes:
        raise BodyTooLarge(max_bytes)
    if order.version_name is not None:
        # Before the rows are read, which may take long, and once more where it counts.
        with connections.engine.begin() as connection:
            check_name_is_free(connection, contract.model, order.version_name)
    taken: list[_Taken] = []

    def request(connection: Connection, imported: ImportResult) -> None:
        taken.append(_request(connection, contract.model, imported, order, actor))

    import_file(
        connections.engine,
        contract,
        order.file.file,
        name=clean_name(order.file.filename),
        actor=actor,
        kind="rest",
        encoding=order.encoding,
        sheet=order.sheet,
        max_bytes=max_bytes,
        reuses_source=True,
        on_stored=request,
    )
    return taken[0]


def _request(connection: Connection, model: str, imported: ImportResult, order: _Order, actor: str) -> _Taken:
    parameters = dict(order.parameters)
    if order.version_name is not None:
        parameters[VERSION_NAME] = check_name_is_free(connection, model, order.version_name)
    training, is_new = request_training(
        connection, model, cause="upload", actor=actor, parameters=parameters, source_id=imported.source_id
    )
    includes_file = True if is_new else find_whether_included(connection, training.id)
    return _Taken(imported, training, is_new, includes_file)


def _build_answer(connections: Connections, taken: _Taken) -> RetrainDocument:
    """The answer of this moment; raises TrainingWithoutVersion where the training ended without one."""
    with connections.engine.connect() as connection:
        training = get_training(connection, taken.training.id)
        shown = build_document(connection, training)
        names = {version: name for name, version in load_version_names(connection, training.model).items()}
    if not training.is_open and training.state != "finished":
        reason = training.error or "it says no reason"
        raise TrainingWithoutVersion(training.model, str(training.id), training.state, reason)
    document = RetrainDocument(
        message=_word(taken, shown),
        imported=ImportDocument.model_validate(taken.imported),
        source_id=taken.imported.source_id,
        training=shown,
        is_new=taken.is_new,
        includes_file=taken.includes_file,
    )
    if training.state == "finished" and training.version is not None:
        document.version = training.version
        document.version_name = names.get(training.version)
        document.model_uri = f"models:/{training.model}/{training.version}"
        document.version_url = f"/mlflow/#/models/{training.model}/versions/{training.version}"
    return document


def _word(taken: _Taken, training: TrainingDocument) -> str:
    if training.state == "finished":
        outcome = (
            "" if training.verdict is None else f" The gate: {training.verdict.outcome}, {training.verdict.reason}"
        )
        said = f"The training of {training.model} succeeded and made version {training.version}.{outcome}"
    else:
        said = f"The rows are stored; a training of {training.model} is {training.state}. Follow it at its Location."
    if taken.is_new:
        return said
    included = {
        True: "This file's rows are in it.",
        False: "This file's rows are not in it: ask again when it has ended.",
        None: "It may not include this file's rows, which came while it was reading: ask again when it has ended.",
    }
    return f"{said} It was requested before; a model has one at a time. {included[taken.includes_file]}"
