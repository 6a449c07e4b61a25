"""The app of the beats' drill: its task writes each run to a ledger, and when it ran."""

from __future__ import annotations

import os
import time
from typing import Any

from cloudq import CloudQ, every

app = CloudQ("beats")


# With more than one, each run publishes so many calls in one message, and they write in its place.
BUNDLE = int(os.environ.get("DRILL_BUNDLE", "1"))


@app.periodic(every(0.5), name="tick", catch_up="skip")
@app.task(name="tick", bind=True)
def tick(self: Any) -> None:
    slot = self.request.headers["cloudq-slot"]
    if BUNDLE == 1:
        note(slot)
    else:
        app.publish([note.prepare(slot) for _ in range(BUNDLE)], bundle=BUNDLE)


@app.task(name="note")
def note(slot: str) -> None:
    ledger = os.open(os.environ["DRILL_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{slot} {time.time():.3f}\n".encode())
    os.close(ledger)
