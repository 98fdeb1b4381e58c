"""Which reader reads a file: its form is known by its content."""

from core.contract import Contract
from ingestion.csv_files import read_csv
from ingestion.faults import RowFault, Unreadable
from ingestion.files import RowFile
from ingestion.json_files import read_json
from ingestion.receiving import Received

_ONLY_TEXT = "leave the encoding out; only CSV and JSON have one"
_ONLY_WORKBOOK = "leave the sheet out; only a workbook has sheets"


def open_rows(received: Received, contract: Contract, sheet: str | None = None) -> RowFile:
    """The file's heading, matched with the contract, and its rows; raises Unreadable.

    `sheet` names a sheet of a workbook; without it the first is read.
    """
    if received.fault is not None:
        raise Unreadable([received.fault])
    is_binary = received.form in ("xlsx", "parquet")
    if is_binary and received.encoding is not None:
        raise Unreadable([RowFault(None, "", f"encoding {received.encoding} of a binary file", _ONLY_TEXT)])
    if sheet is not None and received.form != "xlsx":
        raise Unreadable([RowFault(None, "", f"sheet {sheet}", _ONLY_WORKBOOK)])
    # The modules of rarer forms are loaded where a file has it.
    if received.form == "xlsx":
        from ingestion.xlsx_files import read_xlsx

        return read_xlsx(received, contract, sheet)
    if received.form == "parquet":
        from ingestion.parquet_files import read_parquet

        return read_parquet(received, contract)
    return read_json(received, contract) if received.form == "json" else read_csv(received, contract)
