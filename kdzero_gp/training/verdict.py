"""What paired trainings on fresh seeds say about a winner, in plain words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdzero_gp.common import ALONE_TEXT, interval
from kdzero_gp.families import Measure

REFERENCE = "kd"
# The deciding measure of every distiller by seed.
Samples = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Verdict:
    """What fresh seeds say, by the names of distillers. ``winner`` is the one to use: ``kd``, unless the best published
    method, or the evolved distiller, is ahead by more than the interval (of fewer than three seeds there is none, and
    any lead counts); a tie goes to the simpler. ``differences``: the evolved distiller's lead over a rival, a mean with
    the half-width of its paired 95 % interval, positive where it is better; ``gain``: the winner's over ``kd``, and
    ``over_alone`` over cross-entropy alone, which ``alone`` names. ``images`` are those that report (test, validation);
    ``chosen_on`` is how many other seeds chose."""

    winner: str
    evolved: str
    published: str
    differences: Mapping[str, tuple[float, float]]
    seeds: int
    chosen_on: int
    measure: Measure
    images: str
    alone: str
    gain: tuple[float, float] = (math.nan, math.nan)
    over_alone: tuple[float, float] = (math.nan, math.nan)

    @property
    def lines(self) -> tuple[str, ...]:
        """Three lines; one more where the teacher is of no use."""
        mean, half = self.over_alone
        if not mean < 0 or abs(mean) <= half:
            return self._said
        unit = f" {self.measure.difference_unit}".rstrip()
        behind = self.measure.text(-mean, half) if half == half else self.measure.text(-mean)
        return *self._said, (
            f"but {self.winner if self.winner != self.evolved else 'it'} is behind {ALONE_TEXT} by {behind}{unit}: the "
            "teacher does not help this student; look at its measures and images, or at the magnitudes (--factors)"
        )

    @property
    def _said(self) -> tuple[str, str, str]:
        name = "the evolved distiller" if self.winner == self.evolved else self.winner
        seeds = "1 seed" if self.chosen_on == 1 else f"{self.chosen_on} seeds"
        chosen = f"chosen on {seeds} by validation {self.measure.label}"
        first = f"winner: {name} ({chosen}, confirmed on {self.seeds} fresh seeds by {self.images} images)"
        if not self.evolved:
            return first, "no evolved distiller came to the last trainings", f"use {self.winner}{self._named()}"
        other = self.alone if self.published in ("", REFERENCE) else self.published
        return first, f"the evolved distiller is {self._against(REFERENCE)}", f"and {self._against(other)}"

    def _named(self) -> str:
        """What the winner gains over ``kd``, where that is not said of the evolved distiller already."""
        if self.winner in (self.evolved, REFERENCE) or math.isnan(self.gain[0]):
            return ""
        unit = f" {self.measure.difference_unit}".rstrip()
        return f", which is ahead of {REFERENCE} by {self.measure.text(*self.gain)}{unit}"

    def _against(self, rival: str) -> str:
        mean, half = self.differences.get(rival, (math.nan, math.nan))
        title = ALONE_TEXT if rival == self.alone else rival
        unit = f" {self.measure.difference_unit}".rstrip()
        if math.isnan(mean):
            return f"not compared with {title}"
        if math.isnan(half):
            lead = f"{self.measure.difference(mean)}{unit}"
            return f"{lead} from {title} on {self.seeds} fresh seeds, too few for an interval (--fresh-seeds)"
        where = f"on {self.seeds} fresh seeds (paired 95 % interval)"
        advice = f": use {rival}{self._named()}" if rival == self.winner else ""
        if abs(mean) > half:
            side = "ahead of" if mean > 0 else "behind"
            return f"{side} {title} by {self.measure.text(abs(mean), half)}{unit} {where}{advice}"
        return f"not distinguishable from {title}, {self.measure.difference(mean, half)}{unit} {where}{advice}"


def judge(
    samples: Samples, evolved: str, published: str, measure: Measure, *, chosen_on: int, images: str, alone: str
) -> Verdict:
    """The verdict on an evolved distiller and the best published method ('' where there is none), which were chosen
    on other seeds. Raises ValueError where there is neither."""
    names = [name for name in (REFERENCE, published, evolved) if name in samples]
    if not names:
        raise ValueError("nothing to judge")
    winner = names[0]
    for rival in names[1:]:
        if _is_clear(*lead(samples[rival], samples[winner], measure)):
            winner = rival
    if winner == evolved and published in samples and _is_clear(*lead(samples[published], samples[winner], measure)):
        winner = published
    rivals = [name for name in samples if name != evolved]
    differences = {name: lead(samples[evolved], samples[name], measure) for name in rivals if evolved in samples}
    seeds = len(set.intersection(*(set(of_seed) for of_seed in samples.values())))
    gain, over_alone = (lead(samples[winner], samples.get(name, {}), measure) for name in (REFERENCE, alone))
    evolved = evolved if evolved in samples else ""
    return Verdict(winner, evolved, published, differences, seeds, chosen_on, measure, images, alone, gain, over_alone)


def lead(one: Mapping[int, float], other: Mapping[int, float], measure: Measure) -> tuple[float, float]:
    """How much better one is than the other over their common seeds: mean and half-width of the paired interval."""
    sign = 1.0 if measure.higher_is_better else -1.0
    return mean_interval([sign * (one[seed] - other[seed]) for seed in sorted(one) if seed in other])


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the half-width of its 95 % interval; NaN where there is none."""
    return (statistics.fmean(values) if values else math.nan), interval(values)


def _is_clear(mean: float, half: float) -> bool:
    """Whether a lead is larger than its interval; on fewer seeds than an interval needs, whether there is one."""
    return mean > (0.0 if math.isnan(half) else half)
