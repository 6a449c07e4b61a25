"""The app of the beats' drill: its task writes each run to a ledger, and when it ran."""

from __future__ import annotations

import os
import time
from typing import Any

from cloudq import CloudQ, every

app = CloudQ("beats")


@app.periodic(every(0.5), name="tick", catch_up="skip")
@app.task(name="tick", bind=True)
def tick(self: Any) -> None:
    ledger = os.open(os.environ["DRILL_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{self.request.headers['cloudq-slot']} {time.time():.3f}\n".encode())
    os.close(ledger)
