"""The page of the control plane's OpenAPI description."""

import re

import pytest

from tests.control.running import Controlled


@pytest.mark.parametrize("path", ["/docs", "/docs/control"])
def test_page_takes_everything_from_this_process(steady: Controlled, path: str) -> None:
    page = steady.client.get(path).text
    assert "https://" not in page
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert steady.client.get(asset).status_code == 200, asset
    described = re.search(r"url: '([^']+)'", page)
    assert described is not None
    assert "/models/{model}/retrain" in steady.client.get(described[1]).json()["paths"]
