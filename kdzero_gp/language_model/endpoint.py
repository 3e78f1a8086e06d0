"""Any server with OpenAI's ``/chat/completions``, asked by the standard library alone.

A key is read from the environment when it is needed and stands nowhere else. What a server says of an error is not
repeated, since it may quote the key or the prompt; an answer that quotes the key is masked.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from kdzero_gp.errors import SettingError

# Bytes of an answer; more is refused.
MOST_BYTES = 1 << 20
# Statuses that may be gone a moment later.
PASSING = (408, 409, 429, 500, 502, 503, 504)
# Seconds before the second and the third try; a server may ask for more with Retry-After, up to the bound.
PAUSES = (1.0, 4.0)
LONGEST_PAUSE = 60.0
# What a server may refuse and can do without, in the order in which it is left out when no name is given.
OPTIONAL = ("grammar", "response_format", "seed", "temperature", "max_tokens")
# The name of a variable; what is no name may be a key.
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
# Where a server does not count: characters of a token.
CHARACTERS = 4


@dataclass(frozen=True)
class Reply:
    """What came of a call: ``text``, or why there is none (``failure``). ``calls`` counts every try, ``tokens_in``
    and ``tokens_out`` those of all tries, estimated where the server does not say."""

    text: str = ""
    failure: str = ""
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


class _FailedError(Exception):
    """A try without an answer: why, and the seconds after which another may help (None: never)."""

    def __init__(self, reason: str, pause: float | None = None, refused: bool = False, body: str = ""):
        super().__init__(reason)
        self.reason, self.pause, self.refused, self.body = reason, pause, refused, body


@dataclass
class Endpoint:
    """A model behind ``url`` (which ends before ``/chat/completions``). ``key_variable``: the environment variable
    with the key, none if empty. ``timeout``: seconds of a whole try, whatever a server sends meanwhile. Raises
    SettingError for what cannot be asked."""

    url: str
    model: str
    key_variable: str = ""
    timeout: float = 120.0
    sleep: Callable[[float], None] = time.sleep
    refused: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._parts = check_url(self.url)
        if self.key_variable:
            check_key_variable(self.key_variable)
            if not os.environ.get(self.key_variable):
                raise SettingError("the variable that --llm-key-env names holds no key; set it")

    def ask(self, messages: list[dict[str, str]], options: Mapping[str, Any], most_calls: float = math.inf) -> Reply:
        """Ask once, with tries for what passes, ``most_calls`` in all. A ``response_format`` is sent where the server
        refuses a ``grammar``. Never raises for what a server does."""
        sent = sum(len(message["content"]) for message in messages) // CHARACTERS
        calls = tries = tokens = 0
        while True:
            body = {name: value for name, value in options.items() if name not in self.refused}
            if "grammar" in body:
                body.pop("response_format", None)
            calls += 1
            try:
                text, counted = self._try({"model": self.model, "messages": messages, **body})
                given = counted.get("completion_tokens", len(text) // CHARACTERS)
                return Reply(text, "", calls, tokens + counted.get("prompt_tokens", sent), given)
            except _FailedError as error:
                tokens += sent
                if calls >= most_calls:
                    return Reply("", error.reason, calls, tokens, 0)
                if error.refused and (left := [name for name in OPTIONAL if name in body]):
                    self.refused.add(next((name for name in left if name in error.body), left[0]))
                    continue
                if error.pause is None or tries >= len(PAUSES):
                    return Reply("", error.reason, calls, tokens, 0)
                self.sleep(min(max(error.pause, PAUSES[tries]), LONGEST_PAUSE))
                tries += 1

    def _try(self, body: Mapping[str, Any]) -> tuple[str, dict[str, int]]:
        key = os.environ.get(self.key_variable, "") if self.key_variable else ""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        try:
            response, content = _exchanged(self._parts, json.dumps(body), headers, self.timeout)
        except (TimeoutError, futures.TimeoutError):
            raise _FailedError("no answer in time", 0.0) from None
        except (OSError, http.client.HTTPException, ValueError):
            raise _FailedError("the connection broke", 0.0) from None
        _must_be_good(response, content)
        text, counted = _message(content)
        return (text.replace(key, "[key]") if key else text), counted


def _exchanged(
    parts: SplitResult, body: str, headers: Mapping[str, str], timeout: float
) -> tuple[http.client.HTTPResponse, str]:
    """What a server answers within ``timeout`` seconds, else TimeoutError. A socket's own time limit begins anew with
    every byte, and none covers the look-up of a name: so the exchange has a thread, which is left when time is up."""
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(str(parts.hostname), parts.port or (443 if secure else 80), timeout=timeout)
    done: futures.Future[tuple[http.client.HTTPResponse, str]] = futures.Future()
    late, sockets = threading.Event(), list[socket.socket]()

    def exchange() -> None:
        try:
            with contextlib.closing(connection):
                connection.connect()
                sockets.append(connection.sock)
                if late.is_set():
                    return
                connection.request("POST", f"{parts.path.rstrip('/')}/chat/completions", body, dict(headers))
                with connection.getresponse() as response:
                    done.set_result((response, _content(response)))
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=exchange, daemon=True).start()
    try:
        return done.result(timeout)
    finally:
        late.set()
        for opened in sockets:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)  # ends the thread where it still waits


def check_url(url: str) -> SplitResult:
    """The parts of a URL that can be asked. Raises SettingError for others."""
    # before it is split, since that leaves out line breaks
    usable = url.isprintable() and " " not in url
    try:
        parts = urlsplit(url)
        usable &= parts.scheme in ("http", "https") and parts.port != 0 and parts.path.isascii()
        usable &= bool((parts.hostname or "").encode("idna"))
    except ValueError:
        usable = False
    if not usable:
        raise SettingError("--llm-url must start with http:// or https:// and name a host, without spaces")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SettingError("--llm-url must hold no user, key or query; put the key into a variable")
    return parts


def check_key_variable(name: str) -> None:
    """Raise SettingError, which does not repeat it, for what is no name of a variable: it may be a key."""
    if not _NAME.fullmatch(name):
        raise SettingError(
            "--llm-key-env takes the name of an environment variable, such as LLM_KEY, and not the key; put the key "
            "into the variable"
        )


def _content(response: http.client.HTTPResponse) -> str:
    parts, size = [], 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise _FailedError("the answer is too long")
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(parts).decode("utf-8", errors="replace")


def _must_be_good(response: http.client.HTTPResponse, content: str) -> None:
    """Redirects are not followed, so that a key stays with the host that it is for."""
    status = response.status
    if status == 200:
        return
    if 300 <= status < 400:
        raise _FailedError("the server redirects elsewhere")
    after = response.headers.get("Retry-After") or ""
    pause = (float(after) if after.isdecimal() else 0.0) if status in PASSING else None
    raise _FailedError(f"HTTP status {status}", pause, status in (400, 422), content)


def _message(content: str) -> tuple[str, dict[str, int]]:
    """The text and the counted tokens, also of an answer that came as a stream without being asked."""
    try:
        if content.lstrip().startswith("data:"):
            lines = [line[5:].strip() for line in content.splitlines() if line.startswith("data:")]
            chunks = [json.loads(line) for line in lines if line != "[DONE]"]
            deltas = [choice.get("delta", {}).get("content") for chunk in chunks for choice in chunk["choices"]]
            return "".join(delta for delta in deltas if isinstance(delta, str)), {}
        found = json.loads(content)
        text = found["choices"][0]["message"]["content"]
        usage = found.get("usage") or {}
        counted = {name: int(usage[name]) for name in ("prompt_tokens", "completion_tokens") if usage.get(name)}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise _FailedError("the answer has not the form of chat completions") from None
    if not isinstance(text, str):
        raise _FailedError("the answer holds no text")
    return text, counted
