"""Decides how long a poller lets messages gather, where each request to the queue is billed."""

from __future__ import annotations

import time

# The longest pause, in seconds.
LONGEST = 0.05
# A pause that has brought no second message is tried again after so many receives, then after
# twice as many, and so on up to the most.
_FEWEST, _MOST = 16, 256
# A pause after which a receive was full is shorter next time: by this factor after the first, the
# second and each further one in a row. Where all are full, messages wait, and nobody else should.
_SHORTER = (0.8, 0.4, 0.0)


class Gathering:
    """Learns whether messages come by themselves, or one only after the other. For one thread.

    A request for ten messages costs what one for a single message does. So a poller that got fewer
    than it asked for pauses; but only where that pays: not where every sender waits for its result.
    A pause is as long as a full batch takes to come, and at most `LONGEST`. It is made after a full
    one too, which has left nothing if it was waited for.
    """

    def __init__(self) -> None:
        self._received_at = time.monotonic()
        self._paused = 0.0  # seconds of the pause before the receive under way
        self._length = LONGEST  # of the next pause, if it pays
        self._pays = False
        self._full = 0  # receives in a row that were full after a pause
        self._left = self._fewest = _FEWEST  # receives until the next attempt

    @property
    def paused(self) -> bool:
        """Tell whether there was a pause before the receive under way."""
        return self._paused > 0.0

    def after(self, received: int, asked: int) -> float:
        """Return the seconds to pause after a receive that asked for so many and got these."""
        now = time.monotonic()
        passed, self._received_at = now - self._received_at, now
        paused, self._paused = self._paused, 0.0
        if paused:
            self._learn(received > 1)
        if received < asked or not paused:
            self._full = 0
        if received >= asked:
            if paused and self._pays:
                self._paused = paused * _SHORTER[min(self._full, len(_SHORTER) - 1)]
                self._full += 1
            self._length = self._paused or LONGEST / 2
        elif received and self._pays:
            if paused:  # as long as it takes, at this rate until there are as many as asked for
                self._length = min(paused + passed * (asked / received - 1), LONGEST)
            self._paused = self._length
        elif received:
            self._left -= 1
            self._paused = 0.0 if self._left else LONGEST
        return self._paused

    def _learn(self, pays: bool) -> None:
        if pays and not self._pays:
            self._length = LONGEST
        self._pays = pays
        self._fewest = _FEWEST if pays else min(2 * self._fewest, _MOST)
        self._left = self._fewest
