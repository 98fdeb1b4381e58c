"""Commands for workloads of one's own."""

from pathlib import Path

import pytest

import workloads
from cli.declaring import new
from core.errors import DeclarationRejected


@pytest.mark.parametrize("name", ["tabular_model", "catalogue", "prices"])
def test_proposed_workload_never_hides_a_module_or_another_workload(tmp_path: Path, name: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("size,price\n1,2\n2,5\n3,7\n", encoding="utf-8")
    before = sorted(Path(workloads.__path__[0]).iterdir())
    with pytest.raises(DeclarationRejected, match="it exists already; choose another name"):
        new(name, path)
    assert sorted(Path(workloads.__path__[0]).iterdir()) == before
