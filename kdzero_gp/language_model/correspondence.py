"""Asking a model so that no question is asked twice: answers are kept before they are used, and taken from there."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from kdzero_gp.errors import SettingError
from kdzero_gp.language_model.endpoint import Endpoint, Reply
from kdzero_gp.language_model.prompting import Message
from kdzero_gp.language_model.settings import ModelSettings

# After so many calls in a row without an answer the model is asked no more.
MOST_FAILURES = 3
# Why nobody was asked, which is kept as an answer: a run that is resumed with the key asks from there on.
NO_KEY = "its variable holds no key"


class Replies(Protocol):
    """Where answers are kept: by the digest of the request, and how often the same was asked before."""

    def find(self, key: str, ordinal: int) -> Reply | None:
        """The answer of an earlier time."""

    def keep(self, key: str, ordinal: int, reply: Reply) -> None:
        """Commit an answer before it is used."""

    def missing(self, key: str, ordinal: int) -> Exception:
        """The error where an answer has to be there and is not."""


class Correspondence:
    """Asks within a budget. What it does follows from the requests and the kept answers alone, failed ones too, so that
    a search that is carried out again takes the same way. ``stopped`` says why it asks no more; '' while it does."""

    def __init__(self, settings: ModelSettings, replies: Replies, connect: Callable[[], Endpoint] | None = None):
        self.settings, self.replies = settings, replies
        self._connect = connect or (lambda: connected(settings))
        self._endpoint: Endpoint | None = None
        self._ordinals: Counter[str] = Counter()
        self._failures = 0
        self._refused: set[str] = set()
        self.stopped = ""
        self.used: dict[str, float] = {"calls": 0, "tokens": 0, "usd": 0.0}

    def ask(self, messages: list[Message], options: Mapping[str, Any], past: bool = False) -> Reply | None:
        """The answer to a request, or None where nobody is asked any more. ``past``: it has to be there already."""
        if self.stopped:
            return None
        key = request_key(str(self.settings.model), messages, options)
        ordinal = self._ordinals[key]
        self._ordinals[key] += 1
        reply = self.replies.find(key, ordinal)
        if reply is None:
            if past or self.settings.replay:
                raise self.replies.missing(key, ordinal)
            reply = self._asked(messages, options)
            self.replies.keep(key, ordinal, reply)
        self._count(reply)
        return reply

    def _asked(self, messages: list[Message], options: Mapping[str, Any]) -> Reply:
        try:
            self._endpoint = self._endpoint or self._connect()
        except SettingError:
            return Reply(failure=NO_KEY)
        self._endpoint.refused |= self._refused
        most = self.settings.budget.get("calls", float("inf")) - self.used["calls"]
        return self._endpoint.ask(messages, options, most)

    def refuse(self, option: str) -> None:
        """Send an option no more, since answers do not keep to it; what stands for it is sent instead."""
        self._refused.add(option)

    def _count(self, reply: Reply) -> None:
        used = self.used
        used["calls"] += reply.calls
        used["tokens"] += reply.tokens_in + reply.tokens_out
        used["usd"] += self.settings.cost(reply.tokens_in, reply.tokens_out)
        if reply.calls:
            self._failures = self._failures + 1 if reply.failure else 0
        over = [name for name, most in sorted(self.settings.budget.items()) if used[name] >= most]
        if over:
            self.stopped = f"its budget of {self.settings.budget[over[0]]:g} {over[0]} is used up"
        elif self._failures >= MOST_FAILURES:
            self.stopped = f"it gave no answer {MOST_FAILURES} times in a row ({reply.failure})"


def connected(settings: ModelSettings) -> Endpoint:
    """The endpoint of the settings. Raises SettingError, for example where the key is missing."""
    return Endpoint(str(settings.url), str(settings.model), settings.key_env or "", settings.timeout)


def request_key(model: str, messages: list[Message], options: Mapping[str, Any]) -> str:
    """SHA-256 of a request in one spelling."""
    request = {"model": model, "messages": messages, "options": dict(options)}
    return hashlib.sha256(json.dumps(request, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
