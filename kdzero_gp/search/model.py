"""A language model's part in a search: its answers in the run's database, and the proposer that asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from kdzero_gp.errors import RunError
from kdzero_gp.evolution import Birth, Grammar
from kdzero_gp.language_model import ModelSettings, Reply
from kdzero_gp.language_model.correspondence import Correspondence, connected
from kdzero_gp.language_model.judge import ModelJudge
from kdzero_gp.language_model.prompting import Prompts
from kdzero_gp.language_model.proposer import ModelProposer
from kdzero_gp.search.rows import Status, StoredEvaluation, StoredReply
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database

# The fact that holds the proposer's account.
ACCOUNT = "language_model"


class StoredReplies:
    """The answers of a run, and those of the run that is replayed."""

    def __init__(self, database: Database, replayed: str | None = None):
        self.database, self.replayed = database, replayed

    def find(self, key: str, ordinal: int) -> Reply | None:
        """The answer of this run, or of the replayed one, which becomes this run's."""
        stored = self.database.reply(key, ordinal)
        if stored is None and self.replayed is not None:
            with Database.read(Path(self.replayed)) as other:
                stored = other.reply(key, ordinal)
            if stored is not None:
                self.database.add_reply(stored)
        return None if stored is None else Reply(**{f.name: getattr(stored, f.name) for f in fields(Reply)})

    def keep(self, key: str, ordinal: int, reply: Reply) -> None:
        """Commit an answer."""
        self.database.add_reply(StoredReply(key, ordinal, **asdict(reply)))

    def missing(self, key: str, ordinal: int) -> RunError:
        """The error where an answer is gone."""
        folder = self.replayed or self.database.path.parent
        return RunError(
            f"{folder} has no answer of the language model to request {key[:12]} that this run needs here; use the "
            "settings, the data and the version of kdzero-gp that it was made with"
        )


def must_be_askable(settings: ModelSettings) -> None:
    """Raise KdzeroError where the model, or the run that is replayed, could not be asked at all."""
    if settings.replay is not None:
        Database.read(Path(settings.replay)).close()
    elif settings.asked:
        connected(settings)


def model_proposer(
    settings: RunSettings, database: Database, grammar: Grammar, bench: dict[str, Any]
) -> ModelProposer | None:
    """The proposer ``model`` of a run; None where its settings name no model. ``bench``: both networks' shapes."""
    llm = settings.llm
    if not llm.asked:
        return None
    prompts = Prompts(
        grammar, bench["student_shapes"], bench["teacher_shapes"], relative=settings.magnitude == "relative"
    )
    correspondence = Correspondence(llm, StoredReplies(database, llm.replay))
    proposer = ModelProposer(grammar, prompts, correspondence, llm.share, settings.search.seed)
    proposer.is_past = lambda birth: database.birth(birth) is not None
    return proposer


def model_judge(settings: RunSettings, proposer: ModelProposer | None) -> ModelJudge | None:
    """Who compares candidates for ``--judge model``: the proposer's model."""
    return ModelJudge(proposer) if settings.judge == "model" and proposer is not None else None


def tell(guest: Any, birth: Birth, evaluation: StoredEvaluation | None) -> None:
    """Tell a guest of a settled birth."""
    if evaluation is None or birth.duplicate_of is not None:
        return
    fitness = evaluation.fitness if evaluation.status is Status.TRAINED else None
    reason = evaluation.reason if evaluation.status in (Status.REJECTED, Status.FAILED) else ""
    guest.settled(birth.operator, evaluation.expression, fitness, reason, evaluation.status is Status.EQUIVALENT)


def account_line(account: Mapping[str, Any]) -> str:
    """What a language model did in a run, in words; with the ``fates`` of its births."""
    money = f", {account['usd']:.4f} USD" if account["usd"] else ""
    fates = ", ".join(f"{count} {name}" for name, count in account["fates"].items() if count and name != "births")
    useless = ", ".join(f"{count} {reason}" for reason, count in account["useless"].items())
    parts = [
        f"language model: {account['calls']:.0f} calls, {account['tokens']:,.0f} tokens{money}",
        f"{account['born']} of the {account['births']} births that it was asked for" + (f" ({fates})" if fates else ""),
        f"{account['less_fit']} of {account['judged']} children judged less fit" if "judged" in account else "",
        f"useless: {useless}" if useless else "",
        f"asked no more, since {account['stopped']}" if account["stopped"] else "",
    ]
    return "; ".join(part for part in parts if part)
