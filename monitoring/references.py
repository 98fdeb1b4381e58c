"""The reference of a version: read once from its files, then from the database."""

from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from core.connections import Connections
from core.errors import ModelDirectoryRejected, ReferenceRejected
from core.model_directory import MANIFEST_FILE, REFERENCE_FILE, ModelDirectory
from core.reference import Reference
from core.tables.monitoring import version_references


def load_reference(connections: Connections, model: str, version: int) -> Reference:
    """The version's reference; raises ReferenceRejected for a version that has none, or none that is whole."""
    its_own = (version_references.c.model == model) & (version_references.c.version == version)
    with connections.engine.connect() as connection:
        document = connection.scalar(select(version_references.c.document).where(its_own))
    if document is None:
        document = _fetch(connections, model, version)
        reference = _build(document)
        statement = insert(version_references).values(model=model, version=version, document=document)
        with connections.engine.begin() as connection:
            connection.execute(statement.on_conflict_do_nothing())
        return reference
    return _build(document)


def _fetch(connections: Connections, model: str, version: int) -> dict[str, object]:
    with TemporaryDirectory(prefix="millrace-reference-") as name:
        folder = Path(name)
        for file in (MANIFEST_FILE, REFERENCE_FILE):
            if not connections.registry.download_file(model, version, file, folder):
                raise ReferenceRejected(f"version {version} of {model!r} has no {file}; train it with Millrace")
        try:
            return dict(ModelDirectory.load_reference(folder))
        except ModelDirectoryRejected as error:
            # Its sentence names a folder of this machine.
            reason = error.sentence.replace(str(folder.resolve()), "of the version").replace(
                str(folder), "of the version"
            )
            raise ReferenceRejected(reason.removesuffix(".")) from error


def _build(document: dict[str, object]) -> Reference:
    try:
        return Reference.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ReferenceRejected(f"{place}: {first['msg']}") from error
