"""Bearer tokens of an OpenID Connect provider: signed by one of its keys, meant for this platform, with a role in them.

Sources: OpenID Connect Discovery 1.0, section 4; JSON Web Token Best Current Practices (RFC 8725), section 3.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

import httpx
import jwt

from core.account_errors import NotSignedIn, ProviderUnavailable
from core.principals import Principal
from core.settings import Settings

logger = logging.getLogger(__name__)

# None that is computed with a shared secret: whoever has the provider's public key could sign with it.
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_REQUIRED = ["exp", "iat", "iss", "aud", "sub"]
_LEEWAY_S = 30
_TIMEOUT_S = 5.0
_MAX_BYTES = 2**20
_KEYS_AGE_S = 3600.0
_REFETCH_S = 30.0
_VERIFIED_S = 300.0
_LONGEST_NAME = 128


class OpenIdProvider:
    """One issuer. Its keys are fetched when they are first needed, and again for a key that is not known.

    However many tokens name unknown keys, the issuer is asked at most once in `refetch_s` seconds.
    """

    def __init__(self, settings: Settings, *, refetch_s: float = _REFETCH_S) -> None:
        self.issuer = settings.oidc_issuer or ""
        self._audience = settings.oidc_audience or ""
        self._role_claim = settings.oidc_role_claim
        self._name_claim = settings.oidc_name_claim
        self._roles = settings.oidc_role_names
        self._refetch_s = refetch_s
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched_s = self._tried_s = float("-inf")
        self._fault = ""
        self._fetching = asyncio.Lock()

    async def verify(self, token: str) -> tuple[Principal, float]:
        """Who the token is of, and until when that holds (seconds since 1970); raises NotSignedIn, ProviderUnavailable.

        A token without any role of ours is somebody who has none here: NotSignedIn.
        """
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in _ALGORITHMS:
                raise NotSignedIn("The token is not signed in a way that is taken")
            key = await self._get_key(header.get("kid"))
            claims = jwt.decode(
                token,
                key,
                algorithms=_ALGORITHMS,
                issuer=self.issuer,
                audience=self._audience,
                leeway=_LEEWAY_S,
                options={"require": _REQUIRED},
            )
        except jwt.ExpiredSignatureError as error:
            raise NotSignedIn("The token has expired") from error
        except jwt.PyJWTError as error:
            raise NotSignedIn("The token is not valid here") from error
        # What its provider takes back before it ends is noticed by asking now and then.
        return self._read(claims), min(float(claims["exp"]), time.time() + _VERIFIED_S)

    def _read(self, claims: Mapping[str, object]) -> Principal:
        name = claims.get(self._name_claim)
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= _LONGEST_NAME:
            raise NotSignedIn(f"The token names nobody in its claim {self._name_claim}")
        principal_name = f"oidc:{name}"
        granted = {self._roles[word] for word in _find_words(claims, self._role_claim) if word in self._roles}
        if not granted:
            raise NotSignedIn(f"The token's claim {self._role_claim} holds no role of this platform", principal_name)
        return Principal(principal_name, max(granted))

    async def _get_key(self, key_id: object) -> jwt.PyJWK:
        now_s = time.monotonic()
        if self._find_key(key_id) is None or now_s - self._fetched_s > _KEYS_AGE_S:
            async with self._fetching:
                if self._tried_s + self._refetch_s <= time.monotonic():
                    await self._fetch()
        key = self._find_key(key_id)
        if key is not None:
            return key
        if self._fault:
            raise ProviderUnavailable(self.issuer, self._fault)
        raise NotSignedIn("The token is signed with a key that its provider does not name")

    def _find_key(self, key_id: object) -> jwt.PyJWK | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(str(key_id))

    async def _fetch(self) -> None:
        self._tried_s = time.monotonic()
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S) as client:
                self._keys = _read_keys(await _load(client, await self._find_keys_url(client)))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            self._fault = f"its keys cannot be fetched ({type(error).__name__})"
            logger.warning("keys of %s: %s", self.issuer, error)
        else:
            self._fault = ""
            self._fetched_s = self._tried_s

    async def _find_keys_url(self, client: httpx.AsyncClient) -> str:
        found = await _load(client, f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != self.issuer:
            raise ValueError("it calls itself by another name")
        return str(found.get("jwks_uri"))


def open_provider(settings: Settings) -> OpenIdProvider | None:
    """The provider of the settings, if they name one."""
    return None if settings.oidc_issuer is None else OpenIdProvider(settings)


async def _load(client: httpx.AsyncClient, url: str) -> Mapping[str, object]:
    async with client.stream("GET", url) as answer:
        answer.raise_for_status()
        content = b""
        async for piece in answer.aiter_bytes():
            content += piece
            if len(content) > _MAX_BYTES:
                raise ValueError("it answers more than keys can be")
    document = httpx.Response(200, content=content).json()
    if not isinstance(document, dict):
        raise ValueError("it answers no JSON object")  # noqa: TRY004  # of a document, not of an argument
    return document


def _read_keys(document: Mapping[str, object]) -> dict[str, jwt.PyJWK]:
    entries = document.get("keys")
    keys: dict[str, jwt.PyJWK] = {}
    for entry in entries if isinstance(entries, list) else []:
        # Kinds that are not known here, and keys for another use, sign nothing that is taken.
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
            continue
        try:
            keys[str(entry.get("kid"))] = jwt.PyJWK(entry)
        except jwt.PyJWTError:
            logger.info("a key of the provider is of a kind that is not known here")
    return keys


def _find_words(claims: Mapping[str, object], path: str) -> Sequence[str]:
    """The words of a claim, which may lie in others (`realm_access.roles`): a list, or a text with spaces between."""
    value: object = claims.get(path)
    if value is None:
        value = claims
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, str):
        return value.split()
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []
