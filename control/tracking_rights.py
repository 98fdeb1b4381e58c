"""Who may ask what of MLflow: one right for every route of its server. What is not named here is let through to nobody.

A template that begins with a version stands for `/api/…` and `/ajax-api/…` alike. `{name}` is one segment and
`{name:path}` any number, as in MLflow's own routes.

Viewers read. Operators log: runs, artifacts, traces, new versions. Administrators move stages and aliases, delete,
rename, and manage what holds secrets or has effects beyond MLflow (webhooks, the gateway, the assistant).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from core.principals import Role

Routes = Mapping[str, Sequence[str]]
"""Templates by method."""

_VIEWER: Routes = {
    "GET": (
        "/",
        "/health",
        "/version",
        "/build/{filename:path}",
        "/static-files/{path:path}",
        "/get-artifact",
        "/model-versions/get-artifact",
        "/gateway/mlflow/v1/models",
        "2.0/mlflow-artifacts/artifacts",
        "2.0/mlflow-artifacts/artifacts/{path:path}",
        "2.0/mlflow/artifacts/list",
        "2.0/mlflow/experiments/get",
        "2.0/mlflow/experiments/get-by-name",
        "2.0/mlflow/experiments/search",
        "2.0/mlflow/get-online-trace-details",
        "2.0/mlflow/get-trace-artifact",
        "2.0/mlflow/logged-models/{model_id}",
        "2.0/mlflow/logged-models/{model_id}/artifacts/directories",
        "2.0/mlflow/logged-models/{model_id}/artifacts/files",
        "2.0/mlflow/metrics/get-history",
        "2.0/mlflow/metrics/get-history-bulk",
        "2.0/mlflow/metrics/get-history-bulk-interval",
        "2.0/mlflow/model-versions/get",
        "2.0/mlflow/model-versions/get-download-uri",
        "2.0/mlflow/model-versions/search",
        "2.0/mlflow/registered-models/alias",
        "2.0/mlflow/registered-models/get",
        "2.0/mlflow/registered-models/get-latest-versions",
        "2.0/mlflow/registered-models/search",
        "2.0/mlflow/runs/get",
        "2.0/mlflow/traces",
        "2.0/mlflow/traces/{request_id}/info",
        "2.0/mlflow/unified-traces",
        "3.0/jobs/{job_id}",
        "3.0/mlflow/datasets/search",
        "3.0/mlflow/datasets/{dataset_id}",
        "3.0/mlflow/datasets/{dataset_id}/experiment-ids",
        "3.0/mlflow/datasets/{dataset_id}/records",
        "3.0/mlflow/gateway/budgets/get",
        "3.0/mlflow/gateway/budgets/list",
        "3.0/mlflow/gateway/budgets/windows",
        "3.0/mlflow/gateway/endpoints/bindings/list",
        "3.0/mlflow/gateway/endpoints/get",
        "3.0/mlflow/gateway/endpoints/list",
        "3.0/mlflow/gateway/guardrails/get",
        "3.0/mlflow/gateway/guardrails/list",
        "3.0/mlflow/gateway/guardrails/list-for-endpoint",
        "3.0/mlflow/gateway/model-definitions/get",
        "3.0/mlflow/gateway/model-definitions/list",
        "3.0/mlflow/gateway/provider-config",
        "3.0/mlflow/gateway/supported-models",
        "3.0/mlflow/gateway/supported-providers",
        "3.0/mlflow/get-trace-artifact",
        "3.0/mlflow/issues/{issue_id}",
        "3.0/mlflow/jobs/{job_id}",
        "3.0/mlflow/label-schemas/get",
        "3.0/mlflow/label-schemas/get-by-name",
        "3.0/mlflow/label-schemas/list",
        "3.0/mlflow/mcp-servers",
        "3.0/mlflow/mcp-servers/endpoints",
        "3.0/mlflow/mcp-servers/{name:path}",
        "3.0/mlflow/mcp-servers/{name:path}/aliases/{alias:path}",
        "3.0/mlflow/mcp-servers/{name:path}/endpoints",
        "3.0/mlflow/mcp-servers/{name:path}/endpoints/{endpoint_id}",
        "3.0/mlflow/mcp-servers/{name:path}/versions",
        "3.0/mlflow/mcp-servers/{name:path}/versions/{version:path}",
        "3.0/mlflow/prompt-optimization/jobs/search",
        "3.0/mlflow/prompt-optimization/jobs/{job_id}",
        "3.0/mlflow/review-queues/get",
        "3.0/mlflow/review-queues/get-by-name",
        "3.0/mlflow/review-queues/items/list",
        "3.0/mlflow/review-queues/list",
        "3.0/mlflow/scorers/get",
        "3.0/mlflow/scorers/list",
        "3.0/mlflow/scorers/online-configs",
        "3.0/mlflow/scorers/versions",
        "3.0/mlflow/server-info",
        "3.0/mlflow/traces/batchGet",
        "3.0/mlflow/traces/get",
        "3.0/mlflow/traces/{trace_id}",
        "3.0/mlflow/traces/{trace_id}/assessments/{assessment_id}",
        "3.0/mlflow/ui-telemetry",
        "3.0/mlflow/workspaces",
        "3.0/mlflow/workspaces/{workspace_name}",
    ),
    # They read, and take what is asked for as a body.
    "POST": (
        "/graphql",
        # MLflow's own address of it, the slash missing there.
        "/api/2.0mlflow/experiments/search-datasets",
        "2.0/mlflow/experiments/search",
        "2.0/mlflow/experiments/search-datasets",
        "2.0/mlflow/logged-models/search",
        "2.0/mlflow/registered-models/get-latest-versions",
        "2.0/mlflow/runs/search",
        "3.0/jobs/search",
        "3.0/mlflow/datasets/search",
        "3.0/mlflow/issues/search",
        "3.0/mlflow/prompt-optimization/jobs/search",
        "3.0/mlflow/traces/batchGetInfos",
        "3.0/mlflow/traces/calculate-filter-correlation",
        "3.0/mlflow/traces/metrics",
        "3.0/mlflow/traces/search",
        "3.0/mlflow/ui-telemetry",
    ),
}

_OPERATOR: Routes = {
    # It calls a model provider with the server's key.
    "GET": ("2.0/mlflow/gateway-proxy",),
    "PUT": (
        "2.0/mlflow-artifacts/artifacts/{path:path}",
        "3.0/mlflow/scorers/online-config",
    ),
    "POST": (
        "/v1/traces",
        "/gateway/{endpoint_name}/mlflow/invocations",
        "/gateway/anthropic/v1/messages",
        "/gateway/gemini/v1beta/models/{endpoint_name}:generateContent",
        "/gateway/gemini/v1beta/models/{endpoint_name}:streamGenerateContent",
        "/gateway/mlflow/v1/chat/completions",
        "/gateway/openai/v1/chat/completions",
        "/gateway/openai/v1/embeddings",
        "/gateway/openai/v1/responses",
        "/gateway/openai/v1/responses/compact",
        "/gateway/proxy/{endpoint_name}/{path:path}",
        "/gateway/typesafe/v1/systemone",
        "2.0/mlflow/experiments/create",
        "2.0/mlflow/experiments/set-experiment-tag",
        "2.0/mlflow/gateway-proxy",
        "2.0/mlflow/logged-models",
        "2.0/mlflow/logged-models/{model_id}/params",
        "2.0/mlflow/model-versions/create",
        "2.0/mlflow/model-versions/set-tag",
        "2.0/mlflow/registered-models/create",
        "2.0/mlflow/registered-models/set-tag",
        "2.0/mlflow/runs/create",
        "2.0/mlflow/runs/create-promptlab-run",
        "2.0/mlflow/runs/log-batch",
        "2.0/mlflow/runs/log-inputs",
        "2.0/mlflow/runs/log-metric",
        "2.0/mlflow/runs/log-model",
        "2.0/mlflow/runs/log-parameter",
        "2.0/mlflow/runs/outputs",
        "2.0/mlflow/runs/set-tag",
        "2.0/mlflow/runs/update",
        "2.0/mlflow/traces",
        "2.0/mlflow/traces/link-prompts",
        "2.0/mlflow/traces/link-to-run",
        "2.0/mlflow/upload-artifact",
        "3.0/jobs/",
        "3.0/mlflow/datasets/create",
        "3.0/mlflow/datasets/{dataset_id}/add-experiments",
        "3.0/mlflow/datasets/{dataset_id}/records",
        "3.0/mlflow/genai/evaluate/invoke",
        "3.0/mlflow/issues",
        "3.0/mlflow/issues/invoke",
        "3.0/mlflow/label-schemas/create",
        "3.0/mlflow/mcp-servers",
        "3.0/mlflow/mcp-servers/{name:path}/endpoints",
        "3.0/mlflow/mcp-servers/{name:path}/tags",
        "3.0/mlflow/mcp-servers/{name:path}/versions",
        "3.0/mlflow/mcp-servers/{name:path}/versions/{version:path}/tags",
        "3.0/mlflow/prompt-optimization/jobs",
        "3.0/mlflow/prompt-optimization/jobs/{job_id}/cancel",
        "3.0/mlflow/review-queues/create",
        "3.0/mlflow/review-queues/get-or-create-user",
        "3.0/mlflow/review-queues/items/add",
        "3.0/mlflow/review-queues/items/set-status",
        "3.0/mlflow/review-queues/update",
        "3.0/mlflow/scorer/invoke",
        "3.0/mlflow/scorers/register",
        "3.0/mlflow/traces",
        "3.0/mlflow/traces/{trace_id}/assessments",
    ),
    "PATCH": (
        "2.0/mlflow/logged-models/{model_id}",
        "2.0/mlflow/logged-models/{model_id}/tags",
        "2.0/mlflow/model-versions/update",
        "2.0/mlflow/registered-models/update",
        "2.0/mlflow/traces/{request_id}",
        "2.0/mlflow/traces/{request_id}/tags",
        "3.0/jobs/cancel/{job_id}",
        "3.0/mlflow/datasets/{dataset_id}/tags",
        "3.0/mlflow/issues/{issue_id}",
        "3.0/mlflow/jobs/cancel/{job_id}",
        "3.0/mlflow/label-schemas/update",
        "3.0/mlflow/mcp-servers/{name:path}",
        "3.0/mlflow/mcp-servers/{name:path}/endpoints/{endpoint_id}",
        "3.0/mlflow/traces/{trace_id}/assessments/{assessment_id}",
        "3.0/mlflow/traces/{trace_id}/tags",
    ),
}

_ADMINISTRATOR: Routes = {
    "GET": (
        "2.0/mlflow/webhooks",
        "2.0/mlflow/webhooks/{webhook_id}",
        "3.0/mlflow/assistant/config",
        "3.0/mlflow/assistant/providers",
        "3.0/mlflow/assistant/providers/{provider}/health",
        "3.0/mlflow/assistant/providers/{provider}/models",
        "3.0/mlflow/assistant/sessions/{session_id}/stream",
        "3.0/mlflow/gateway/secrets/config",
        "3.0/mlflow/gateway/secrets/get",
        "3.0/mlflow/gateway/secrets/list",
    ),
    "POST": (
        "2.0/mlflow/experiments/delete",
        "2.0/mlflow/experiments/delete-experiment-tag",
        "2.0/mlflow/experiments/restore",
        "2.0/mlflow/experiments/update",
        "2.0/mlflow/model-versions/transition-stage",
        "2.0/mlflow/registered-models/alias",
        "2.0/mlflow/registered-models/rename",
        "2.0/mlflow/runs/delete",
        "2.0/mlflow/runs/delete-tag",
        "2.0/mlflow/runs/restore",
        "2.0/mlflow/traces/delete-traces",
        "2.0/mlflow/webhooks",
        "2.0/mlflow/webhooks/{webhook_id}/test",
        "3.0/mlflow/assistant/message",
        "3.0/mlflow/assistant/sessions/{session_id}/permission",
        "3.0/mlflow/assistant/sessions/{session_id}/tool-result",
        "3.0/mlflow/assistant/skills/install",
        "3.0/mlflow/datasets/{dataset_id}/remove-experiments",
        "3.0/mlflow/demo/delete",
        "3.0/mlflow/demo/generate",
        "3.0/mlflow/gateway/budgets/create",
        "3.0/mlflow/gateway/budgets/update",
        "3.0/mlflow/gateway/endpoints/bindings/create",
        "3.0/mlflow/gateway/endpoints/create",
        "3.0/mlflow/gateway/endpoints/models/attach",
        "3.0/mlflow/gateway/endpoints/models/detach",
        "3.0/mlflow/gateway/endpoints/set-tag",
        "3.0/mlflow/gateway/endpoints/update",
        "3.0/mlflow/gateway/guardrails/add-to-endpoint",
        "3.0/mlflow/gateway/guardrails/create",
        "3.0/mlflow/gateway/model-definitions/create",
        "3.0/mlflow/gateway/model-definitions/update",
        "3.0/mlflow/gateway/secrets/create",
        "3.0/mlflow/gateway/secrets/update",
        "3.0/mlflow/mcp-servers/{name:path}/aliases",
        "3.0/mlflow/review-queues/delete",
        "3.0/mlflow/review-queues/items/remove",
        "3.0/mlflow/traces/delete-traces",
        "3.0/mlflow/workspaces",
    ),
    "PUT": ("3.0/mlflow/assistant/config",),
    "PATCH": (
        "2.0/mlflow/webhooks/{webhook_id}",
        "3.0/mlflow/assistant/sessions/{session_id}",
        "3.0/mlflow/gateway/guardrails/update-config",
        # The status of such a version is its stage.
        "3.0/mlflow/mcp-servers/{name:path}/versions/{version:path}",
        "3.0/mlflow/workspaces/{workspace_name}",
    ),
    "DELETE": (
        "2.0/mlflow-artifacts/artifacts/{path:path}",
        "2.0/mlflow/logged-models/{model_id}",
        "2.0/mlflow/logged-models/{model_id}/tags/{tag_key}",
        "2.0/mlflow/model-versions/delete",
        "2.0/mlflow/model-versions/delete-tag",
        "2.0/mlflow/registered-models/alias",
        "2.0/mlflow/registered-models/delete",
        "2.0/mlflow/registered-models/delete-tag",
        "2.0/mlflow/traces/{request_id}/tags",
        "2.0/mlflow/webhooks/{webhook_id}",
        "3.0/mlflow/datasets/{dataset_id}",
        "3.0/mlflow/datasets/{dataset_id}/records",
        "3.0/mlflow/datasets/{dataset_id}/tags/{key}",
        "3.0/mlflow/gateway/budgets/delete",
        "3.0/mlflow/gateway/endpoints/bindings/delete",
        "3.0/mlflow/gateway/endpoints/delete",
        "3.0/mlflow/gateway/endpoints/delete-tag",
        "3.0/mlflow/gateway/guardrails/delete",
        "3.0/mlflow/gateway/guardrails/remove-from-endpoint",
        "3.0/mlflow/gateway/model-definitions/delete",
        "3.0/mlflow/gateway/secrets/delete",
        "3.0/mlflow/label-schemas/delete",
        "3.0/mlflow/mcp-servers/{name:path}",
        "3.0/mlflow/mcp-servers/{name:path}/aliases/{alias:path}",
        "3.0/mlflow/mcp-servers/{name:path}/endpoints/{endpoint_id}",
        "3.0/mlflow/mcp-servers/{name:path}/tags/{key:path}",
        "3.0/mlflow/mcp-servers/{name:path}/versions/{version:path}",
        "3.0/mlflow/mcp-servers/{name:path}/versions/{version:path}/tags/{key:path}",
        "3.0/mlflow/prompt-optimization/jobs/{job_id}",
        "3.0/mlflow/scorers/delete",
        "3.0/mlflow/traces/{trace_id}/assessments/{assessment_id}",
        "3.0/mlflow/traces/{trace_id}/tags",
        "3.0/mlflow/workspaces/{workspace_name}",
    ),
}

# Their answers are addresses of the artifact store itself, which would carry their right past the door.
_PAST_THE_DOOR: Routes = {
    "GET": ("2.0/mlflow-artifacts/presigned/{path:path}",),
    "POST": (
        "2.0/mlflow-artifacts/mpu/abort/{path:path}",
        "2.0/mlflow-artifacts/mpu/complete/{path:path}",
        "2.0/mlflow-artifacts/mpu/create/{path:path}",
        "2.0/mlflow/artifacts/presigned-download-url",
        "2.0/mlflow/artifacts/presigned-upload-url",
    ),
}

# Documents in the body decide there, and this method would take them from elsewhere.
_CLOSED: Routes = {"GET": ("/graphql",)}


@dataclass(frozen=True)
class Right:
    """What one route asks for. `role` is None where nobody is let through."""

    method: str
    template: str
    role: Role | None
    is_past_the_door: bool = False

    @property
    def action(self) -> str:
        """The route as errors and the audit log name it."""
        return f"{self.method} /mlflow{self.template}"

    @property
    def is_changing(self) -> bool:
        """Whether it may change something: what viewers may ask does not, whatever its method."""
        return self.method != "GET" and self.role is not Role.VIEWER


@cache
def build_rights() -> tuple[Right, ...]:
    """Every right, by the templates as MLflow's `/api/…` has them."""
    tables: Sequence[tuple[Routes, Role | None, bool]] = (
        (_VIEWER, Role.VIEWER, False),
        (_OPERATOR, Role.OPERATOR, False),
        (_ADMINISTRATOR, Role.ADMINISTRATOR, False),
        (_PAST_THE_DOOR, None, True),
        (_CLOSED, None, False),
    )
    return tuple(
        Right(method, template if template.startswith("/") else f"/api/{template}", role, is_past_the_door)
        for routes, role, is_past_the_door in tables
        for method, templates in routes.items()
        for template in templates
    )
