"""What is wrong with rows, in the terms of the file or batch that brought them."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import Fault, show_value


@dataclass(frozen=True)
class RowFault:
    """One broken rule; `line` counts from 1 as an editor does, `column` is empty where no one column is at fault."""

    line: int | None
    column: str
    value: str
    rule: str

    def to_fault(self) -> Fault:
        """The fault as an error shows it."""
        place = [f"line {self.line}"] if self.line is not None else []
        place += [f"column {self.column}"] if self.column else []
        return Fault(where=", ".join(place) or "the input", value=show_value(self.value), rule=self.rule)


class Unreadable(Exception):
    """The input's form leaves no rows to judge; `importing` records it and words the error that a caller sees."""

    def __init__(self, faults: Sequence[RowFault]) -> None:
        super().__init__("; ".join(str(fault.to_fault()) for fault in faults))
        self.faults = tuple(faults)
