"""Passwords and signed queries of URLs stay out of what is shown."""

import pytest

from hded.common.errors import HDEDError, hide_secrets
from pipeline.lib.tracking import portable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pa55@host:8443/a/b.mat", "https://...@host:8443/a/b.mat"),
        ("https://tok3n@host/a", "https://...@host/a"),
        ("http://me:p@ss@host/a", "http://...@host/a"),
        ("s3://bucket/key?X-Amz-Signature=abc&x=1#sha256=12", "s3://bucket/key?...#sha256=12"),
        ("tried http://a:b@c/d, then http://e/f", "tried http://...@c/d, then http://e/f"),
        ("source: 'https://u:p@h/x?y'", "source: 'https://...@h/x?...'"),
        ("postgresql+psycopg2://u:p@db/hded", "postgresql+psycopg2://...@db/hded"),
        ("mail me@host, 3 > 2? yes", "mail me@host, 3 > 2? yes"),
        ("https://host/@scope/package", "https://host/@scope/package"),
        ("https://host/a#sha256=0f", "https://host/a#sha256=0f"),
    ],
)
def test_only_what_is_secret_goes(text: str, shown: str) -> None:
    assert hide_secrets(text) == shown
    assert str(HDEDError(text)) == shown


def test_a_tracking_server_is_named_without_its_password() -> None:
    assert portable("https://me:pa55@mlflow.example.org") == "https://mlflow.example.org"
    assert portable("sqlite:////home/me/hded/mlflow.db") == "sqlite:///mlflow.db"
