"""One candidate's proxy training again, looked at from step to step. It must end where it ended in the run."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdzero_gp.analysis import markup
from kdzero_gp.draw.style import FONT
from kdzero_gp.engine.machine import Machine, computing_as
from kdzero_gp.errors import RunError
from kdzero_gp.proxy.evaluator import Evaluator, Train, Trained
from kdzero_gp.proxy.students import student_builder
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.search.prepare import PROXY_TASK

# Blue, vermillion, green, orange, purple of Okabe and Ito (2008), which colour-blind readers tell apart; the dashes
# keep lines apart in print.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7")
DASHES = ("-", "--", ":", "-.", (0, (1, 2)))


@dataclass(frozen=True, repr=False)
class Replay:
    """A proxy training, step by step. Each row of ``curve`` has ``step``, ``learning_rate``, ``cross_entropy`` (on the
    training batch), ``term_1`` … (the distiller's losses with their magnitudes), ``distillation`` (their sum) and
    ``loss``. ``metrics`` are those at the end, on the validation images; ``stored`` are the run's."""

    name: str
    curve: tuple[dict[str, float], ...]
    metrics: Mapping[str, float]
    stored: Mapping[str, float]
    magnitudes: tuple[float, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether the replay ended exactly where the run did."""
        return all(self.stored.get(name) == value for name, value in self.metrics.items())

    @property
    def frame(self) -> Any:
        """The curve as a pandas data frame, one row for each step."""
        from kdzero_gp.analysis.dataframes import frame

        return frame(self.curve).set_index("step")

    def __repr__(self) -> str:
        found = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        return f"replay of {self.name}, {len(self.curve)} steps: {found}; {self._verdict}"

    @property
    def _verdict(self) -> str:
        return "the same numbers as in the run" if self.equal else "other numbers than in the run"

    def _repr_svg_(self) -> str:
        names = [name for name in self.curve[0] if name == "cross_entropy" or name.startswith("term_")]
        lines = {}
        for name in names:
            magnitude = f" × {self.magnitudes[int(name[5:]) - 1]:.3g}" if name.startswith("term_") else ""
            label = name.replace("_", " ").replace("cross entropy", "cross-entropy") + magnitude
            lines[label] = [row[name] for row in self.curve]
        return _chart(lines, f"Training loss of {self.name}")

    def _repr_html_(self) -> str:
        rows = [[name, f"{v:.6f}", f"{self.stored.get(name, math.nan):.6f}"] for name, v in self.metrics.items()]
        words = markup.tag("p", f"{len(self.curve)} steps; {self._verdict}.")
        return markup.plain(markup.shrinking(self._repr_svg_()), markup.table(["metric", "replay", "run"], rows), words)


def _chart(lines: Mapping[str, Sequence[float]], title: str) -> str:
    """The lines over the steps as svg, with a fixed salt so that equal charts are equal bytes."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "kdzero-gp", "font.family": FONT}
    text = io.StringIO()
    with rc_context(settings):
        figure = Figure(figsize=(8.5, 4), layout="tight")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(title=title, xlabel="step", ylabel="loss on the batch")
        for (label, values), colour, dash in zip(lines.items(), cycle(COLOURS), cycle(DASHES), strict=False):
            axes.plot(range(1, len(values) + 1), values, color=colour, linestyle=dash, label=label)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd")
        axes.legend(frameon=False)
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


class _Recording(Evaluator):
    """An evaluator that writes down each step's losses."""

    def __init__(self, bench: ProxyTask, device: str):
        super().__init__(bench, student_builder(bench.student, bench.train.images[:2]), device)
        self.curve: list[dict[str, float]] = []
        self.weighted: list[Tensor] = []
        self.on_step = self._note

    def ready(self, distiller: nn.Module) -> None:
        terms = distiller.terms
        magnitudes: tuple[float, ...] = distiller.magnitudes  # type: ignore[assignment]

        def recorded(*arguments: Any) -> Sequence[Tensor]:
            found = terms(*arguments)  # type: ignore[operator]
            self.weighted = [m * term.detach() for m, term in zip(magnitudes, found, strict=True)]
            return found  # type: ignore[no-any-return]

        distiller.terms = recorded  # type: ignore[assignment]

    def _note(self, step: int, hard: Tensor, soft: Tensor | None) -> None:
        row = {"cross_entropy": hard.item()}
        if soft is not None:
            row |= {f"term_{index}": term.item() for index, term in enumerate(self.weighted, 1)}
            row |= {"distillation": soft.item()}
        self.curve.append({"step": step + 1, **row, "loss": hard.item() + (0.0 if soft is None else soft.item())})


def replay(
    folder: Path, name: str, request: Train, stored: Mapping[str, float], device: str = "auto", check: bool = True
) -> Replay:
    """Carry out ``request`` again, as a worker of the run did. Raises ``RunError`` where the bench is missing, the
    candidate cannot be trained, or, with ``check``, a metric differs from ``stored``."""
    path = folder / PROXY_TASK
    if not path.is_file():
        raise RunError(
            f"{folder} has no {PROXY_TASK}, which a replay trains on; resume the run: kdzero-gp resume {folder}"
        )
    bench = ProxyTask.load(path).of(request.recipe)
    evaluator, trained = _run(bench, request, Machine(device=device).resolved().type)
    if trained.reason:
        raise RunError(f"{name} cannot be trained: {trained.reason}; choose one that has a fitness")
    known = {metric: stored[metric] for metric in trained.metrics if metric in stored}
    recipe = evaluator.bench.recipes[request.recipe]
    per_epoch = len(bench.train.labels) // min(recipe.batch_size, len(bench.train.labels))
    rates = [recipe.rate(step, per_epoch) for step in range(len(evaluator.curve))]
    curve = tuple(
        {"step": row["step"], "learning_rate": rate, **row} for row, rate in zip(evaluator.curve, rates, strict=True)
    )
    found = Replay(name, curve, trained.metrics, known, request.magnitudes or ())
    if check and not found.equal:
        metric = next(m for m, value in found.metrics.items() if known.get(m) != value)
        raise RunError(
            f"the replay of {name} ended with {metric} {found.metrics[metric]!r} and the run with "
            f"{known.get(metric)!r}; use the run's kind of device and versions, or replay with check=False"
        )
    return found


def _run(bench: ProxyTask, request: Train, device: str) -> tuple[_Recording, Trained]:
    """Evaluate with one thread, as workers do, and leave torch's generator and threads as they were."""
    with computing_as(1), torch.random.fork_rng():
        evaluator = _Recording(bench, device)
        return evaluator, evaluator.train(request)
