"""What a training tells while it works. The command line draws it; without one it is silent."""

from __future__ import annotations

from typing import Any, Protocol


class Progress(Protocol):
    """What a front end offers; each method does nothing by default."""

    def note(self, text: str) -> None:
        """Something worth a line."""
        return None

    def begin(self, what: str, total: int) -> None:
        """A stage of ``total`` steps starts."""
        return None

    def advance(self, done: int = 1, **fields: Any) -> None:
        """``done`` more steps of the stage; ``fields`` are shown beside it."""
        return None

    def end(self) -> None:
        """The stage is over."""
        return None


class Silent(Progress):
    """Shows nothing."""
