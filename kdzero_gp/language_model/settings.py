"""What a language model's part in a search is decided by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kdzero_gp.errors import SettingError
from kdzero_gp.language_model.endpoint import check_key_variable, check_url

# What can be bounded, and what money is counted by: US dollars for a million tokens.
BOUNDED = ("calls", "tokens", "usd")
PRICED = ("in", "out")


@dataclass(frozen=True)
class ModelSettings:
    """A language model beside the evolution; without a ``url`` there is none.

    ``share``: how many births it is asked for; ``key_env``: the environment variable with the key; ``budget``: the
    most ``calls``, ``tokens`` and ``usd``; ``price``: US dollars for a million tokens ``in`` and ``out``; ``timeout``:
    seconds of one try; ``replay``: a run's folder whose answers are taken, so that nobody is asked.
    """

    url: str | None = None
    model: str | None = None
    key_env: str | None = None
    share: float = 0.05
    budget: dict[str, float] = field(default_factory=dict)
    price: dict[str, float] = field(default_factory=dict)
    timeout: float = 120.0
    replay: str | None = None

    def __post_init__(self) -> None:
        """Raises SettingError for values that make no sense."""
        if self.url is None:
            return
        check_url(self.url)
        if self.key_env is not None:
            check_key_variable(self.key_env)
        if not self.model:
            raise SettingError("--llm-url has no effect without --llm-model; name the model of the server")
        if not 0 < self.share < 1:
            raise SettingError(f"--llm-share must lie between 0 and 1, got {self.share:g}")
        if not self.timeout > 0:
            raise SettingError(f"--llm-timeout must be more than 0 seconds, got {self.timeout:g}")
        _only("--llm-budget", self.budget, BOUNDED)
        _only("--llm-price", self.price, PRICED)
        if "usd" in self.budget and not self.price:
            raise SettingError("--llm-budget usd=… has no effect without --llm-price; add in=… and out=…")

    @property
    def asked(self) -> bool:
        """Whether there is a model."""
        return self.url is not None

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """US dollars of so many tokens."""
        return (tokens_in * self.price.get("in", 0.0) + tokens_out * self.price.get("out", 0.0)) / 1e6


def _only(option: str, values: Mapping[str, float], names: tuple[str, ...]) -> None:
    for name, value in values.items():
        if name not in names or not value > 0:
            raise SettingError(f"{option} takes numbers above 0 for {', '.join(names)}, got {name}={value:g}")
