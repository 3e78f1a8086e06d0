"""What a long command tells while it works. The command line draws it; without one it is silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Progress:
    """Silent by default; a front end overrides what it shows."""

    def watch(self, folder: Path) -> None:
        """A run begins in this folder, from which more can be read while it goes on."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def later(self, seconds: float) -> None:
        """About so many seconds will be needed when the stage that begins next is over."""

    def begin(self, what: str, total: int) -> None:
        """A stage of ``total`` steps starts."""

    def advance(self, done: int = 1, **fields: Any) -> None:
        """``done`` more steps of the stage; ``fields`` are shown beside it (best fitness, counts)."""

    def end(self) -> None:
        """The stage is over."""
