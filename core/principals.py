"""Who acts, and what their role and the scopes of their token let them do."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Self

from core.account_errors import RoleTooSmall, ScopeRejected, TokenRestricted
from core.names import is_name

_MODEL_SCOPE = "model:"


class Role(IntEnum):
    """What a principal may do; each role may do what the ones below it may.

    A viewer reads and predicts; an operator brings data in, trains and checks; an administrator promotes, rolls back,
    overrides, and manages accounts.
    """

    VIEWER = 1
    OPERATOR = 2
    ADMINISTRATOR = 3

    @property
    def word(self) -> str:
        """Its name in documents, settings and sentences."""
        return self.name.lower()

    @classmethod
    def find(cls, word: str) -> "Role | None":
        """The role of that name."""
        return next((role for role in cls if role.word == word), None)


ROLE_WORDS = tuple(role.word for role in Role)


class Action(StrEnum):
    """What a route does, as the scopes of a token name it: the last two are what a greater role is asked for."""

    READ = "read"
    PREDICT = "predict"
    OPERATE = "operate"
    ADMINISTER = "administer"


ACTIONS = {Role.VIEWER: Action.READ, Role.OPERATOR: Action.OPERATE, Role.ADMINISTRATOR: Action.ADMINISTER}
"""What a route that asks for a role does, unless it says otherwise."""


@dataclass(frozen=True)
class Scopes:
    """What a token is restricted to within its role; an empty set restricts nothing."""

    actions: frozenset[Action] = frozenset()
    models: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, words: Sequence[str]) -> Self:
        """Scopes as a person writes them: actions (`predict`) and models (`model:prices`); raises ScopeRejected."""
        actions, models = set(), set()
        for word in words:
            name = word.removeprefix(_MODEL_SCOPE)
            if word in set(Action):
                actions.add(Action(word))
            elif name != word and is_name(name):
                models.add(name)
            else:
                raise ScopeRejected(word, [*Action, f"{_MODEL_SCOPE}NAME"])
        return cls(frozenset(actions), frozenset(models))

    @property
    def words(self) -> list[str]:
        """As `parse` takes them."""
        return [*sorted(self.actions), *(f"{_MODEL_SCOPE}{name}" for name in sorted(self.models))]

    @property
    def is_restricting(self) -> bool:
        return bool(self.actions or self.models)


UNRESTRICTED = Scopes()


@dataclass(frozen=True)
class Principal:
    """A person or a service; `name` is what records name as the actor."""

    name: str
    role: Role
    scopes: Scopes = field(default=UNRESTRICTED)

    def check(self, role: Role, action: Action, model: str | None) -> None:
        """Raise RoleTooSmall or TokenRestricted unless this one may do `action`, which `role` may.

        `model` is the one model that it is done to; None where it is several, or none.
        """
        if self.role < role:
            raise RoleTooSmall(self.name, self.role.word, role.word)
        if self.scopes.actions and action not in self.scopes.actions:
            raise TokenRestricted(self.name, self.scopes.words, f"to {action}")
        if self.scopes.models and model not in self.scopes.models:
            what = f"anything of model {model!r}" if model else "what is not of one model alone"
            raise TokenRestricted(self.name, self.scopes.words, what)
