"""The page of the control plane's OpenAPI description."""

import re

from tests.control.running import Controlled


def test_page_takes_everything_from_this_process(steady: Controlled) -> None:
    page = steady.client.get("/docs").text
    assert "https://" not in page
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert steady.client.get(asset).status_code == 200, asset
