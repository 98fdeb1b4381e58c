"""An OpenID Connect provider on a real port: discovery, keys, and tokens signed with real RSA keys."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm
from starlette.types import Receive, Scope, Send

from tests.web.running import running

AUDIENCE = "millrace-tests"


@dataclass
class Provider:
    """What it answers, and how often it was asked for its keys."""

    issuer: str = ""
    keys: dict[str, RSAPrivateKey] = field(default_factory=dict)
    key_requests: int = 0
    is_broken: bool = False

    def rotate(self, key_id: str) -> None:
        """Sign with a new key, and name that alone."""
        self.keys = {key_id: generate_private_key(65537, 2048)}

    def issue(self, key: RSAPrivateKey | None = None, **claims: object) -> str:
        """A token of anna, an operator, with these claims changed; None leaves one out."""
        key_id, own = next(iter(self.keys.items()))
        now = int(time.time())
        whole: dict[str, object] = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "1234",
            "preferred_username": "anna",
            "roles": ["operator"],
            "iat": now,
            "exp": now + 300,
        } | claims
        kept = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode(kept, key or own, algorithm="RS256", headers={"kid": key_id})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI
        if scope["type"] != "http":
            return
        document: object = {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}
        if scope["path"] == "/keys":
            self.key_requests += 1
            keys = [json.loads(RSAAlgorithm.to_jwk(key.public_key())) for key in self.keys.values()]
            document = {"keys": [one | {"kid": name, "use": "sig"} for one, name in zip(keys, self.keys, strict=True)]}
        content = json.dumps(document).encode()
        status = 500 if self.is_broken else 200
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})


@contextmanager
def running_provider() -> Iterator[Provider]:
    """A provider with one key."""
    provider = Provider()
    provider.rotate("first")
    with running(provider) as address:
        provider.issuer = address
        yield provider
