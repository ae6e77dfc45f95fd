"""Decides which latency to try next when the accuracy is limited and the latency is to be as low as possible.

The loss of accuracy after a whole recovery is what counts, and it is dear; after a short one it is cheap, and larger.
So the search brackets the limit with short recoveries, taking a part of their loss for what a whole one would leave,
confirms the fastest promising latency with a whole one, learns from it what that part is, and goes on from there.
"""

from __future__ import annotations

from dataclasses import dataclass

MILDEST_PART = 0.95
SMALLEST_PART = 0.1
_FIRST_PART = 0.6
_FASTER = 0.7
# What a whole recovery leaves of the loss after a short one, until the first whole one has told.
_LOSS_LEFT = 0.4
_AIM = 0.9  # of the limit
_NEAR = 0.03  # of the original's latency: closer is not worth another recovery
_MOST_SHORT = 6
_MOST_WHOLE = 3
_MOST_UNTRAINED = 8


@dataclass(frozen=True)
class Ask:
    """The latency to try, as a part of the original's, and whether to recover wholly."""

    part: float
    whole: bool


@dataclass(frozen=True)
class Answer:
    """What came of it: the accuracy (0 to 1) that was lost; None where no network was that fast."""

    part: float
    whole: bool
    loss: float | None


class DropSearch:
    """Asks for latencies and recoveries, and is told losses of accuracy; the caller owns the loop.

    Deterministic, so that telling a new one the answers on disk continues a killed search.
    """

    def __init__(self, limit: float, trains: bool = True) -> None:
        """Start on the largest loss (0 to 1) that is admitted; without training every answer is a whole one."""
        self._limit = limit
        self._trains = trains
        self._answers: list[Answer] = []

    @property
    def best(self) -> Answer | None:
        """The fastest network that was wholly recovered and stayed inside the limit."""
        inside = [answer for answer in self._whole() if answer.loss is not None and answer.loss <= self._limit]
        return min(inside, key=lambda answer: answer.part, default=None)

    @property
    def mildest(self) -> Answer | None:
        """The wholly recovered network that lost least."""
        lost = [answer for answer in self._whole() if answer.loss is not None]
        return min(lost, key=lambda answer: answer.loss or 0.0, default=None)

    def tell(self, answer: Answer) -> None:
        """Learn what came of an ask."""
        self._answers.append(answer)

    def ask(self) -> Ask | None:
        """Return what to try next, or None when nothing more is to be gained or the recoveries are used up."""
        short = sum(not answer.whole for answer in self._answers)
        whole = sum(answer.loss is not None for answer in self._whole())
        whole_left = (_MOST_WHOLE if self._trains else _MOST_UNTRAINED) - whole
        part = self._wanted()
        if whole_left <= 0 or (self.best is not None and part > self.best.part - _NEAR):
            return None
        if self.best is None and whole_left == 1:
            part = (part + MILDEST_PART) / 2  # the last chance to find anything
        near = self._near(part, whole=False)
        if near is None and self._trains and short < _MOST_SHORT:
            return Ask(part, whole=False)
        return self._confirm(near.part if near is not None else part)

    def _confirm(self, part: float) -> Ask | None:
        """Ask for a whole recovery; where one has just missed the limit, for one a little slower."""
        if self._near(part, whole=True) is None:
            return Ask(part, whole=True)
        slower = min(part + 2 * _NEAR, MILDEST_PART)
        if self.best is not None or self._near(slower, whole=True) is not None:
            return None
        return Ask(slower, whole=True)

    def _wanted(self) -> float:
        """Return the fastest latency whose predicted loss still fits."""
        points = self._predicted()
        slower_part, slower_loss = 1.0, 0.0
        for part, loss in points:
            if loss is None or loss > self._limit:
                wanted = _between(slower_part, slower_loss, part, loss, self._limit * _AIM)
                return min(max(wanted, SMALLEST_PART), MILDEST_PART)
            slower_part, slower_loss = part, loss
        return max(slower_part * _FASTER, SMALLEST_PART) if points else _FIRST_PART

    def _predicted(self) -> list[tuple[float, float | None]]:
        """Return (part, loss after a whole recovery) from slow to fast; a faster network never loses less."""
        left = self._loss_left()
        whole = {answer.part: answer.loss for answer in self._whole()}
        short = {
            answer.part: None if answer.loss is None else left * answer.loss
            for answer in self._answers
            if not answer.whole
        }
        points: list[tuple[float, float | None]] = []
        largest = 0.0
        for part, loss in sorted({**short, **whole}.items(), reverse=True):
            largest = max(largest, loss or 0.0)
            points.append((part, None if loss is None else largest))
        return points

    def _loss_left(self) -> float:
        """Return which part of the loss after a short recovery is left after a whole one.

        What was seen counts by the size of the losses, and the first guess like a loss at the limit, so that a small
        loss, which is mostly chance, proves little.
        """
        short = {answer.part: answer.loss for answer in self._answers if not answer.whole}
        pairs = ((answer.loss, short.get(answer.part)) for answer in self._whole())
        seen = [(after, before) for after, before in pairs if after is not None and before is not None]
        after_all = sum(max(after, 0.0) for after, _ in seen) + _LOSS_LEFT * self._limit
        before_all = sum(max(before, 0.0) for _, before in seen) + self._limit
        return min(after_all / before_all, 1.0) if before_all else _LOSS_LEFT

    def _whole(self) -> list[Answer]:
        return [answer for answer in self._answers if answer.whole]

    def _near(self, part: float, whole: bool) -> Answer | None:
        answers = [answer for answer in self._answers if answer.whole == whole]
        near = [answer for answer in answers if abs(answer.part - part) <= _NEAR / 2]
        return min(near, key=lambda answer: abs(answer.part - part), default=None)


def _between(slow_part: float, slow_loss: float, fast_part: float, fast_loss: float | None, aim: float) -> float:
    """Interpolate where the loss is as aimed at, staying off both ends; the middle where nothing is known of one."""
    if fast_loss is None or fast_loss <= slow_loss:
        return (slow_part + fast_part) / 2
    way = (aim - slow_loss) / (fast_loss - slow_loss)
    return slow_part + min(max(way, 0.1), 0.9) * (fast_part - slow_part)
