"""When the state of a run is saved: as often as is cheap, and never a minute apart."""

import time
from collections.abc import Callable

LOST = 50.0
"""Seconds of work that a killed process loses at most, where single steps and the saving itself
are quick enough; ten more are left for what cannot be foreseen."""
_SHARE = 0.05
"""Share of the time that saving at the ends of epochs may take."""


class Saver:
    """Saves, and knows when it is time to."""

    def __init__(self, save: Callable[[], None]) -> None:
        """Save for the first time.

        Args:
            save: Saves.
        """
        self._save = save
        self()

    def __call__(self) -> None:
        """Save now."""
        begun = time.monotonic()
        self._save()
        self._saved_at = time.monotonic()
        self._took = self._saved_at - begun

    def is_due(self, ahead: float) -> bool:
        """Say whether it must be now, for later would be too late.

        Args:
            ahead: After so many seconds it is asked again.

        Returns:
            Whether more than `LOST` could be lost otherwise.
        """
        return time.monotonic() - self._saved_at + ahead + self._took >= LOST

    def is_cheap(self) -> bool:
        """Say whether saving now takes a small part of the time since the last one.

        Returns:
            Whether it does.
        """
        return time.monotonic() - self._saved_at >= self._took / _SHARE
