"""What was read, from where, and what was left out: printed at the start, kept with the cache and with a run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

SHOWN = 8
"""So many names are listed before the rest is counted."""
PARTS = ("train", "validation", "test")


def listed(names: Sequence[object], shown: int = SHOWN) -> str:
    """The first names, and how many more there are.

    >>> listed("abcd", shown=2)
    'a, b and 2 more'
    """
    rest = len(names) - shown
    return ", ".join(map(str, names[:shown])) + (f" and {rest} more" if rest > 0 else "")


@dataclass(frozen=True)
class DataAccount:
    """``images``: part → images of each class; ``origins``: part → where they come from; ``skipped``: reason → files
    that were not read; ``notes``: sentences that ask for a look; ``content``: a digest of all images and labels;
    ``noun``: what the images are called, which may be none."""

    classes: tuple[str, ...] = ()
    images: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    content: str = ""
    noun: str = "images"

    def lines(self) -> list[str]:
        """The account as it is printed, one subject a line."""
        lines = [f"{len(self.classes)} classes: {listed(self.classes)}"]
        for part, counts in self.images.items():
            if counts and sum(counts):
                least, most = min(counts), max(counts)
                each = f"{least}" if least == most else f"{least} to {most}"
                each = f", {each} a class" if len(counts) == len(self.classes) else ""  # label maps hold many classes
                lines.append(f"{part}: {sum(counts):,} {self.noun}{each}, from {self.origins.get(part, 'memory')}")
        if self.skipped:
            lines.append("not read: " + listed([f"{count} {reason}" for reason, count in self.skipped.items()]))
        return lines + [f"note: {note}" for note in self.notes]

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON keeps it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "DataAccount":
        """What ``as_dict`` gave, after JSON."""
        images = {part: tuple(counts) for part, counts in fields["images"].items()}
        rest = {"classes": tuple(fields["classes"]), "notes": tuple(fields["notes"]), "images": images}
        return cls(**{**fields, **rest})

    def difference(self, earlier: Mapping[str, Any]) -> str:
        """What differs from an earlier ``as_dict``, in a few words; empty for the same data."""
        before = DataAccount.from_dict(earlier)
        if before.classes != self.classes:
            changed = sorted(set(before.classes) ^ set(self.classes)) or ["their order"]
            return f"the classes differ ({listed(changed)})"
        for part in PARTS:
            old, new = (sum(account.images.get(part, ())) for account in (before, self))
            if old != new:
                return f"{part} has {new:,} images and had {old:,}"
        same = before.content == self.content or not before.content
        return "" if same else "images or labels have other content under the same counts"


def counts(labels: np.ndarray, classes: int) -> tuple[int, ...]:
    """How many labels there are of each class."""
    return tuple(np.bincount(labels, minlength=classes).tolist())
