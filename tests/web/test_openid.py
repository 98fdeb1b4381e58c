"""Tokens of an OpenID Connect provider, which answers over real HTTP."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from core.account_errors import NotSignedIn, ProviderUnavailable
from core.errors import SettingsRejected
from core.principals import Principal, Role
from core.settings import load_settings
from tests.web.providers import AUDIENCE, Provider, running_provider
from web.openid import OpenIdProvider


@pytest.fixture
def provider() -> Iterator[Provider]:
    with running_provider() as running:
        yield running


def trust(provider: Provider, *, refetch_s: float = 30.0, **settings: str) -> OpenIdProvider:
    loaded = load_settings(oidc_issuer=provider.issuer, oidc_audience=AUDIENCE, **settings)
    return OpenIdProvider(loaded, refetch_s=refetch_s)


def verify(trusted: OpenIdProvider, *tokens: str) -> list[Principal | str]:
    """Who each token is of, or the name of the error."""

    async def run() -> list[Principal | str]:
        found: list[Principal | str] = []
        for token in tokens:
            try:
                found.append((await trusted.verify(token))[0])
            except (NotSignedIn, ProviderUnavailable) as error:
                found.append(type(error).__name__)
        return found

    return asyncio.run(run())


def test_token_of_the_provider_has_its_name_and_role(provider: Provider) -> None:
    trusted = trust(provider)
    assert verify(trusted, provider.issue()) == [Principal("oidc:anna", Role.OPERATOR)]
    assert verify(trusted, provider.issue(roles=["viewer", "administrator", "cook"], aud=["x", AUDIENCE])) == [
        Principal("oidc:anna", Role.ADMINISTRATOR)
    ]


def test_roles_and_names_are_found_where_the_settings_say(provider: Provider) -> None:
    trusted = trust(
        provider, oidc_role_claim="realm_access.roles", oidc_roles="viewer=staff, operator=ml", oidc_name_claim="email"
    )
    given: dict[str, Any] = {"realm_access": {"roles": ["ml", "administrator"]}, "email": "anna@example.org"}
    assert verify(trusted, provider.issue(**given)) == [Principal("oidc:anna@example.org", Role.OPERATOR)]
    assert verify(trust(provider, oidc_role_claim="scope"), provider.issue(scope="openid viewer")) == [
        Principal("oidc:anna", Role.VIEWER)
    ]


def test_what_is_not_the_providers_for_us_now_is_refused(provider: Provider) -> None:
    stranger = generate_private_key(65537, 2048)
    public = next(iter(provider.keys.values())).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    claims = jwt.decode(provider.issue(), options={"verify_signature": False})
    header, _, signature = provider.issue().split(".")
    other_body = provider.issue(roles=["administrator"]).split(".")[1]
    hidden = _sign_with_public_key(claims, pem)
    wrong = {
        "expired": provider.issue(exp=int(time.time()) - 60),
        "without an end": provider.issue(exp=None),
        "foreign audience": provider.issue(aud="another application"),
        "without an audience": provider.issue(aud=None),
        "foreign issuer": provider.issue(iss="https://evil.example"),
        "not yet": provider.issue(nbf=int(time.time()) + 600),
        "of a stranger's key": provider.issue(key=stranger),
        "tampered": f"{header}.{other_body}.{signature}",
        "alg=none": jwt.encode(claims, "", algorithm="none", headers={"kid": "first"}),
        "HS256 with the public key": hidden,
        "without a name": provider.issue(preferred_username=None),
        "a name to deceive": provider.issue(preferred_username="an\nna"),
        "without a role": provider.issue(roles=["cook"]),
        "role of another form": provider.issue(roles={"operator": True}),
    }
    trusted = trust(provider)
    found = dict(zip(wrong, verify(trusted, *wrong.values()), strict=True))
    assert found == dict.fromkeys(wrong, "NotSignedIn")


def _sign_with_public_key(claims: dict[str, object], pem: bytes) -> str:
    """What PyJWT itself refuses to make."""
    import base64
    import hashlib
    import hmac
    import json

    def encode(part: bytes) -> bytes:
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    header = json.dumps({"alg": "HS256", "typ": "JWT", "kid": "first"}).encode()
    text = encode(header) + b"." + encode(json.dumps(claims).encode())
    return (text + b"." + encode(hmac.new(pem, text, hashlib.sha256).digest())).decode()


def test_keys_are_kept_and_not_fetched_for_every_unknown_one(provider: Provider) -> None:
    trusted = trust(provider, refetch_s=3600.0)
    old = provider.issue()
    assert verify(trusted, old, old, old).count("NotSignedIn") == 0
    assert provider.key_requests == 1
    provider.rotate("second")
    assert verify(trusted, *[provider.issue() for _ in range(5)]) == ["NotSignedIn"] * 5
    assert provider.key_requests == 1


def test_rotated_keys_are_fetched_and_the_old_ones_forgotten(provider: Provider) -> None:
    trusted = trust(provider, refetch_s=0.0)
    old = provider.issue()
    assert verify(trusted, old) == [Principal("oidc:anna", Role.OPERATOR)]
    provider.rotate("second")
    assert verify(trusted, provider.issue(), old) == [Principal("oidc:anna", Role.OPERATOR), "NotSignedIn"]


def test_provider_that_is_away_keeps_nobody_out_whose_key_is_known(provider: Provider) -> None:
    trusted = trust(provider, refetch_s=0.0)
    known = provider.issue()
    assert verify(trusted, known) == [Principal("oidc:anna", Role.OPERATOR)]
    provider.is_broken = True
    provider.rotate("second")
    assert verify(trusted, known, provider.issue()) == [Principal("oidc:anna", Role.OPERATOR), "ProviderUnavailable"]
    assert verify(trust(provider), provider.issue()) == ["ProviderUnavailable"]


def test_provider_that_names_another_issuer_is_not_trusted(provider: Provider) -> None:
    trusted = trust(provider)
    token = provider.issue()
    provider.issuer = "https://evil.example"
    assert verify(trusted, token) == ["ProviderUnavailable"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"oidc_issuer": "https://id.example"}, "MILLRACE_OIDC_AUDIENCE"),
        ({"oidc_issuer": "http://id.example", "oidc_audience": "x"}, "https://"),
        ({"oidc_issuer": "https://id.example?x=1", "oidc_audience": "x"}, "https://"),
        ({"oidc_roles": "cook=x"}, "viewer=NAME"),
        ({"oidc_roles": "viewer"}, "viewer=NAME"),
    ],
)
def test_settings_that_would_trust_too_much_are_refused(changes: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsRejected, match=named):
        load_settings(**changes)
