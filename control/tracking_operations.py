"""What of MLflow's GraphQL the door lets through: queries of the fields that are named here, and no mutation."""

from collections.abc import Iterator, Mapping

from graphql import GraphQLError, parse
from graphql.language import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
)

from core.errors import show_value
from core.tracking_errors import TrackingBodyRejected, TrackingOperationDenied

FIELDS = frozenset(
    {
        "mlflowGetExperiment",
        "mlflowGetMetricHistoryBulkInterval",
        "mlflowGetRun",
        "mlflowListArtifacts",
        "mlflowSearchModelVersions",
        "mlflowSearchRuns",
        "test",
    }
)
"""The fields that a query may begin with."""

_OF_EVERY_SCHEMA = frozenset({"__schema", "__type", "__typename"})
_MAX_TOKENS = 5_000


def check_operations(document: Mapping[str, object]) -> None:
    """Raise TrackingOperationDenied where the request's document holds more than queries of known fields.

    Every operation in it counts, not only the one that is named. Raises TrackingBodyRejected where it is no GraphQL.
    """
    query = document.get("query")
    if not isinstance(query, str):
        raise TrackingBodyRejected(f"query is {show_value(query)}, and has to be a GraphQL document")
    try:
        tree = parse(query, no_location=True, max_tokens=_MAX_TOKENS)
        fields = list(_iterate_root_fields(tree))
    except (GraphQLError, RecursionError) as error:
        reason = error.message if isinstance(error, GraphQLError) else "it is nested too deeply"
        raise TrackingBodyRejected(f"query is no GraphQL document: {reason}") from None
    for field in fields:
        if field not in FIELDS | _OF_EVERY_SCHEMA:
            raise TrackingOperationDenied(f"field {show_value(field, 100)}", ", ".join(sorted(FIELDS)))


def _iterate_root_fields(tree: DocumentNode) -> Iterator[str]:
    fragments = {node.name.value: node for node in tree.definitions if isinstance(node, FragmentDefinitionNode)}
    for node in tree.definitions:
        if isinstance(node, FragmentDefinitionNode):
            continue
        if not isinstance(node, OperationDefinitionNode) or node.operation is not OperationType.QUERY:
            kind = node.operation.value if isinstance(node, OperationDefinitionNode) else node.kind
            raise TrackingOperationDenied(kind, "queries")
        yield from _iterate_fields(node.selection_set, fragments, set())


def _iterate_fields(
    selections: SelectionSetNode, fragments: Mapping[str, FragmentDefinitionNode], entered: set[str]
) -> Iterator[str]:
    for selection in selections.selections:
        if isinstance(selection, FieldNode):
            yield selection.name.value
        elif isinstance(selection, FragmentSpreadNode):
            fragment = fragments.get(selection.name.value)
            if fragment is not None and selection.name.value not in entered:
                entered.add(selection.name.value)
                yield from _iterate_fields(fragment.selection_set, fragments, entered)
        elif isinstance(selection, InlineFragmentNode):
            yield from _iterate_fields(selection.selection_set, fragments, entered)
