"""An app of which one task calls another, so that a worker's child sends too."""

from __future__ import annotations

import os

from cloudq import CloudQ

app = CloudQ("costs", task_default_queue=os.environ.get("COST_QUEUE", "default"))


@app.task
def leaf(text: str) -> str:
    return text


@app.task
def root(text: str) -> str:
    leaf.delay(text)
    return text
