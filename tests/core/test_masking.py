"""Secrets in what processes print."""

import pytest

from core.masking import Masker, build_masker
from core.settings import load_settings

DATABASE = "postgresql+psycopg://millrace:p%40ssword-of-12@db:5432/millrace"


@pytest.mark.parametrize(
    ("printed", "kept"),
    [
        ("connecting with p@ssword-of-12 now", "connecting with *** now"),
        (f"cannot reach {DATABASE}", "cannot reach postgresql+psycopg://millrace:***@db:5432/millrace"),
        ("GET https://ann:unknown@host/x", "GET https://ann:***@host/x"),
        ("Authorization: Bearer abc.def-ghi_jkl", "Authorization: Bearer ***"),
        ("key AKsecretsecret!", "key ***"),
        ("broker mqtt-password", "broker ***"),
        ("epoch 3, loss 0.1 at http://host:5000/x", "epoch 3, loss 0.1 at http://host:5000/x"),
    ],
)
def test_what_this_process_knows_as_secret_is_masked(printed: str, kept: str) -> None:
    settings = load_settings(mqtt_url="mqtt://user:mqtt-password@broker")
    environment = {"AWS_SECRET_ACCESS_KEY": "AKsecretsecret!", "HOME": "epoch 3", "APP_TOKEN": "abc"}
    masker = build_masker(settings, DATABASE, environment)
    assert masker.mask(printed) == kept


def test_a_secret_inside_another_leaves_no_part_of_it() -> None:
    assert Masker(["secret", "secret-longer"]).mask("secret-longer secret") == "*** ***"
