"""What a training may take, and what of it is spent."""

from __future__ import annotations

from dataclasses import dataclass, replace

from autotune.recover.settings import Settings

_LEAST = 0.01  # of the minutes: less than that is not worth going on for


@dataclass(frozen=True)
class Budget:
    """The steps and minutes of `whole`, of which `step` steps and `seconds` seconds are spent."""

    whole: Settings
    step: int = 0
    seconds: float = 0.0

    @property
    def over(self) -> bool:
        """Whether nothing is left that a step should be taken for."""
        return self.step >= self.whole.steps or self.seconds >= 60 * self.whole.minutes * (1 - _LEAST)

    def part(self, of: int = 1) -> Settings:
        """The settings for one of `of` equal parts of the whole, or for what is left where that is less, with other
        batches than those that were seen. Where the budget is over they allow a step that should not be taken."""
        steps = min(self.whole.steps // of, self.whole.steps - self.step)
        minutes = min(self.whole.minutes / of, self.whole.minutes - self.seconds / 60)
        return replace(
            self.whole, steps=max(1, steps), minutes=max(_LEAST * self.whole.minutes, minutes), seed=self.step
        )
