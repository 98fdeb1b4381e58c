"""Cells of a CSV file in which a spreadsheet finds no formula."""

import re

# What spreadsheets take for the beginning of a formula, also behind what they drop, and in full width.
# Source: OWASP, "CSV Injection".
_FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def neutralise(cell: str) -> str:
    """The cell behind an apostrophe where a spreadsheet would compute it; a number stays one."""
    return f"'{cell}" if cell.startswith(_FORMULA_MARKS) and not _NUMBER.fullmatch(cell) else cell
