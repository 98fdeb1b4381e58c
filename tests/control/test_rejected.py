"""Rejected rows over HTTP, page by page."""

from tests.control.running import Controlled

_PATH = "/models/prices/rejected"
_BAD = "Date,Close\n" + "".join(f"2024-01-{day:02},-{day}\n" for day in range(1, 8))


def test_rejected_rows_are_listed_page_by_page(controlled: Controlled) -> None:
    assert controlled.client.get(_PATH).json() == {"rows": [], "next_before": None}
    controlled.client.post("/models/prices/observations", files={"file": ("bad.csv", _BAD.encode())})

    pages = [controlled.client.get(_PATH, params={"limit": 3}).json()]
    while pages[-1]["next_before"] is not None:
        assert len(pages) < 5
        following = controlled.client.get(_PATH, params={"limit": 3, "before": pages[-1]["next_before"]})
        pages.append(following.json())

    rows = [row for page in pages for row in page["rows"]]
    assert [len(page["rows"]) for page in pages] == [3, 3, 1]
    assert [row["line"] for row in rows] == list(range(8, 1, -1))
    assert {(row["source"], row["form"], row["column"], row["rule"]) for row in rows} == {
        ("bad.csv", "csv", "Close", "at least 1e-06 USD is allowed")
    }
    assert rows[0]["value"] == "-7"


def test_unknown_model_and_bad_page_are_refused(controlled: Controlled) -> None:
    assert controlled.client.get("/models/nothing/rejected").status_code == 404
    for query in ({"limit": "0"}, {"before": "-1"}, {"before": "x"}, {"before": str(2**70)}):
        assert controlled.client.get(_PATH, params=query).status_code == 422
