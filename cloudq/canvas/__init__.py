"""Workflows at work: checking, freezing and starting them, and joining their members.

`cloudq.tasks.signature` has the nodes that users compose. `freeze` gives them ids, `plan` makes
their messages, `workflows` sends those, and `joins` starts the bodies of chords.
"""
