"""What the documents of the control plane share, and how its OpenAPI page describes problems."""

from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from web.problems import PROBLEM_TYPE

_PROBLEM_SCHEMA = "Problem"
_DESCRIPTIONS = {
    400: "The sign-in was refused",
    401: "The request carries no valid token",
    403: "The role, or the scopes of the token, do not allow it; or a page of another site asks",
    404: "The model, or what is named in it, does not exist",
    409: "What is asked contradicts the present state",
    413: "The body is larger than allowed",
    429: "There were too many tries to sign in",
    422: "Something in the request is not allowed; `errors` names each place, value and rule",
    503: "The database or the tracking server does not answer; the same request may succeed later",
}

# PostgreSQL's text holds every character but this one.
_NO_NUL = r"^[^\x00]*$"
Reason = Annotated[str, StringConstraints(max_length=2000, pattern=_NO_NUL, strip_whitespace=True)]


class Answer(BaseModel):
    """A document that is answered; built from the attributes of what the platform's core returns."""

    model_config = ConfigDict(from_attributes=True)


class Order(BaseModel):
    """A document that is taken; a member that is not known is refused, not ignored."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """Problem details (RFC 9457). Facts of the error stand beside these members."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Kind of the problem, relative to the address of the api")
    title: str = Field(description="The kind in words")
    status: int = Field(description="HTTP status code")
    detail: str = Field(description="What failed, the value received, what is allowed and what to do next")
    instance: str = Field(description="The request")
    request_id: str = Field(description="Id of the request, which the log of the process carries too")
    errors: list[dict[str, str]] | None = Field(None, description="Each fault: where, value and rule")


def describe_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of routes that may answer problems with these status codes.

    Any route may refuse who asks (401, 403) or what is in the request (422), or find the database or the tracking
    server away (503).
    """
    schema = {"$ref": f"#/components/schemas/{_PROBLEM_SCHEMA}"}
    return {
        status: {"description": _DESCRIPTIONS[status], "content": {PROBLEM_TYPE: {"schema": schema}}}
        for status in sorted({*statuses, 401, 403, 422, 503})
    }


class DocumentedApi(FastAPI):
    """An application whose OpenAPI document describes its problem details once, by name."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, built when it is first asked for."""
        if self.openapi_schema is None:
            document = super().openapi()
            document["components"]["schemas"][_PROBLEM_SCHEMA] = Problem.model_json_schema()
        return super().openapi()
