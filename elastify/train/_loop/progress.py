"""What the user sees and does during a run: the progress bar, and Ctrl-C."""

from __future__ import annotations

from tqdm import tqdm

from elastify.train._strategies import Losses

_SMOOTHING = 0.95


class Bar:
    """The progress bar: smoothed losses of full, smallest and random subnets; it counts steps, or seconds."""

    def __init__(self, total: int | None, unit: str, steps: int, seconds: float, *, shown: bool) -> None:
        self.unit = unit
        self._smooth: dict[str, float] = {}
        begin = self._place(steps, seconds)
        self._bar = tqdm(total=total, initial=begin, unit=unit, disable=not shown, mininterval=0.5)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def move(self, steps: int, seconds: float) -> None:
        """Stand where the run stands."""
        self._bar.update(self._place(steps, seconds) - self._bar.n)

    def _place(self, steps: int, seconds: float) -> int:
        return steps if self.unit == "step" else round(seconds)

    def show(self, losses: Losses) -> None:
        """The losses of one more step."""
        for name, value in (("max", losses.max), ("min", losses.min), ("random", losses.mean_random)):
            if value is not None:
                self._smooth[name] = _SMOOTHING * self._smooth.get(name, value) + (1 - _SMOOTHING) * value
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in self._smooth.items()}, refresh=False)
