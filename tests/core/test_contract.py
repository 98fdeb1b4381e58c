"""What a contract accepts, says of itself, and refuses in the declaration's own terms."""

import pytest
from pydantic import ValidationError

from core.contract import MAX_STEPS, Column, Contract, Key, Monitored, Route, build_contract
from core.errors import DeclarationRejected
from tests.core.contracts import build_pair_series, build_series, build_table


def test_input_shape_is_a_window_of_a_series_and_a_row_of_a_table() -> None:
    assert build_series(steps=30).input_shape == (30, 1)
    assert build_pair_series().input_shape == (2, 2)
    assert build_table().input_shape == (2,)


@pytest.mark.parametrize("contract", [build_series(), build_pair_series(), build_table()], ids=lambda c: c.model)
def test_contract_survives_its_json(contract: Contract) -> None:
    assert Contract.model_validate_json(contract.model_dump_json()) == contract


def test_columns_are_found_by_name() -> None:
    assert build_series().column("close").unit == "USD"


def test_contract_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        build_series().steps = 5


def rebuild(contract: Contract, **fields: object) -> Contract:
    """The contract with some fields put differently."""
    return build_contract(contract.model, **(contract.model_dump(exclude={"model"}) | fields))


CLOSE = Column(name="close", dtype="float")
AT = Column(name="at", dtype="time")


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"columns": (AT, CLOSE, CLOSE)}, "columns has a name twice"),
        ({"target": "opening"}, r"\['opening'\] is used but is not among the columns"),
        ({"features": ("close", "volume")}, r"\['volume'\] is used"),
        ({"key": Key(time="day")}, r"\['day'\] is used"),
        ({"key": Key(time="at", entity="symbol")}, r"\['symbol'\] is used"),
        ({"key": Key()}, "a sequence needs key.time"),
        ({"steps": 1}, "a sequence needs at least 2 steps, not 1"),
        ({"steps": 0}, "steps=0: Input should be greater than or equal to 1"),
        ({"steps": MAX_STEPS + 1}, "steps=10001: Input should be less than or equal to 10000"),
        ({"kind": "graph"}, "kind='graph': Input should be 'tabular', 'sequence' or 'ranking'"),
        ({"format_version": 2}, "format_version=2: Input should be 1"),
        ({"colour": "red"}, "colour='red': Extra inputs are not permitted"),
        ({"columns": ({"name": "a;b", "dtype": "float"},)}, "columns.0.name='a;b': String should match pattern"),
        ({"columns": ({"name": "", "dtype": "float"},)}, "columns.0.name='': String should match pattern"),
        ({"columns": ({"name": "a", "dtype": "double"},)}, "columns.0.dtype='double': Input should be"),
        (
            {"columns": (AT, {"name": "close", "dtype": "float", "minimum": 2, "maximum": 1})},
            "'close' has minimum 2 above maximum 1",
        ),
        ({"columns": (AT, {"name": "close", "dtype": "float", "minimum": float("nan")})}, "finite"),
        ({"monitored": (Monitored(name="m", column="at", transform="last_value"),)}, "'at', which is none of the feat"),
        ({"monitored": (Monitored(name="m", column="close", transform="value"),)}, "a sequence has no 'value'"),
        (
            {
                "columns": (AT, CLOSE),
                "monitored": (Monitored(name="m", column="close", transform="last_log_return"),),
            },
            "needs a minimum above 0 for 'close'",
        ),
    ],
)
def test_contradictory_declaration_is_refused_by_what_is_wrong(fields: dict[str, object], fault: str) -> None:
    with pytest.raises(DeclarationRejected, match=f"Workload 'closes' is not declared rightly: .*{fault}"):
        rebuild(build_series(), **fields)


@pytest.mark.parametrize("transform", ["last_value", "last_log_return"])
def test_table_has_no_last_step(transform: str) -> None:
    with pytest.raises(DeclarationRejected, match=f"a tabular has no '{transform}'"):
        rebuild(build_table(), monitored=({"name": "m", "column": "width", "transform": transform},))


@pytest.mark.parametrize("name", ["", "Prices", "1prices", "a-b", "a/b", "../a", "a\n", "a" * 64, "größe"])
def test_name_that_would_not_do_in_paths_and_tables_is_refused(name: str) -> None:
    with pytest.raises(DeclarationRejected, match="is not a name for a model"):
        build_contract(name, **build_series().model_dump(exclude={"model"}))


@pytest.mark.parametrize("name", ["a", "prices_2", "a" * 63])
def test_plain_name_is_taken(name: str) -> None:
    assert build_contract(name, **build_series().model_dump(exclude={"model"})).model == name


@pytest.mark.parametrize("path", ["/v2/models", "/metrics", "/invocations", "/models/{model}/predict"])
def test_route_at_an_address_of_the_platforms_own_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="an address of the platform's own"):
        Route(path=path, codec="values", answer={})


@pytest.mark.parametrize("path", ["predict", "/Predict", "/a b", "/", "/a?b", "/" + "a" * 121])
def test_route_with_an_address_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="path"):
        Route(path=path, codec="values", answer={})
