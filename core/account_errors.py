"""Errors of accounts; `name` is the account that was named or used, where one was: who records refusals asks for it."""

from collections.abc import Sequence

from core.errors import Conflict, InvalidInput, MillraceError, NotFound, Unavailable, show_value

# --- categories --------------------------------------------------------------------------------------------------


class Unauthenticated(MillraceError):
    """Nobody knows who asks."""

    def __init__(self, sentence: str, name: str | None = None) -> None:
        self.name = name
        super().__init__(sentence)


class Forbidden(MillraceError):
    """Who asks is known, and may not."""

    def __init__(self, sentence: str, name: str | None = None) -> None:
        self.name = name
        super().__init__(sentence)


# --- who asks ----------------------------------------------------------------------------------------------------


class NotSignedIn(Unauthenticated):
    """A request without a token or session, or with one that is not, or no longer, valid."""

    def __init__(self, reason: str = "The request carries no token", name: str | None = None) -> None:
        super().__init__(
            f"{reason}. Send `Authorization: Bearer <token>` with a token of `millrace tokens create` or of POST "
            "/token, or sign in at /sign-in.",
            name,
        )


class RoleTooSmall(Forbidden):
    def __init__(self, name: str, role: str, needed: str) -> None:
        super().__init__(f"{name} has the role {role}; this needs {needed}.", name)


class TokenRestricted(Forbidden):
    """A token whose role would do and whose scopes do not."""

    def __init__(self, name: str, scopes: Sequence[str], what: str) -> None:
        super().__init__(f"The scopes of {name} are {', '.join(scopes)}; they do not allow {what}.", name)


class ForeignOrigin(Forbidden):
    """A session of a browser used by a page of another site."""

    def __init__(self, origin: str | None, name: str | None) -> None:
        who = "The request does not say which page it" if origin is None else f"A page of {show_value(origin)}"
        rest = "comes from; with a session a change needs that" if origin is None else "may not change anything here"
        super().__init__(f"{who} {rest}.", name)


class SignInFailed(Unauthenticated):
    """One error for an unknown name, a wrong password and a disabled account: nobody learns which names there are."""

    def __init__(self, name: str | None) -> None:
        super().__init__("The name or the password is wrong.", name)

    def facts(self) -> dict[str, object]:
        return {"error": "invalid_grant", "error_description": self.sentence}


class RefreshRefused(SignInFailed):
    """A refresh token that is unknown, used before, or of a session that has ended."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.sentence = "The refresh token is not valid, or no longer; sign in again."
        self.args = (self.sentence,)


class SignInThrottled(MillraceError):
    """Too many tries in a short time, for one account or from one address."""

    def __init__(self, name: str | None, retry_after_s: int) -> None:
        self.name = name
        self.retry_after_s = retry_after_s
        super().__init__(f"There were too many tries to sign in; try again in {retry_after_s} s.")


class SignInRequestRejected(InvalidInput):
    """A request for a token that is none of OAuth 2's that are answered here."""

    def __init__(self, error: str, sentence: str) -> None:
        self._error = error
        super().__init__(sentence)

    def facts(self) -> dict[str, object]:
        return {"error": self._error, "error_description": self.sentence}


class LinkRefused(Forbidden):
    """A one-time link that is used, too old, or made up."""

    def __init__(self) -> None:
        super().__init__(
            "This link is not valid, or no longer: it works once, within a day, and while there is no administrator. "
            "`millrace users add NAME --role administrator` makes one at the platform's own terminal."
        )


class AccountsUnknown(Unavailable):
    """The database has not answered since the start, so nobody can be recognised."""

    def __init__(self) -> None:
        super().__init__("Who may ask is not known yet: the database has not answered since this process began.")


class ProviderUnavailable(Unavailable):
    """The OpenID Connect provider does not tell its keys."""

    def __init__(self, issuer: str, reason: str) -> None:
        super().__init__(f"The tokens of {issuer} cannot be checked: {reason}.")


# --- managing accounts -------------------------------------------------------------------------------------------


class AccountNameRejected(InvalidInput):
    def __init__(self, what: str, name: str) -> None:
        super().__init__(
            f"{show_value(name)} is not a name for a {what}: allowed are 1 to 64 lower-case letters, digits, dots, "
            "dashes, underscores and @, beginning with a letter or a digit."
        )


class PasswordRejected(InvalidInput):
    """The password itself is in no sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The password is not taken: {reason}.")


class RoleRejected(InvalidInput):
    def __init__(self, word: str, allowed: Sequence[str]) -> None:
        super().__init__(f"{show_value(word)} is not a role: allowed are {', '.join(allowed)}.")


class ScopeRejected(InvalidInput):
    def __init__(self, word: str, allowed: Sequence[str]) -> None:
        super().__init__(f"{show_value(word)} is not a scope: allowed are {', '.join(allowed)}.")


class LifetimeRejected(InvalidInput):
    def __init__(self, days: float) -> None:
        super().__init__(f"A token of {days:g} days is not allowed: more than 0 and at most 3650 are.")


class UserNotFound(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f"There is no user {show_value(name)}; `millrace users list` shows them.")


class TokenNotFound(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f"There is no valid token {show_value(name)}; `millrace tokens list` shows them.")


class UserExists(Conflict):
    def __init__(self, name: str) -> None:
        super().__init__(f"There is a user {show_value(name)} already; set-password and set-role change it.")


class TokenExists(Conflict):
    def __init__(self, name: str) -> None:
        super().__init__(f"There is a token {show_value(name)} already; revoke it first, or choose another name.")


class LastAdministrator(Conflict):
    def __init__(self, name: str) -> None:
        super().__init__(
            f"{show_value(name)} is the only administrator; make another one before this one is disabled or loses "
            "the role."
        )
