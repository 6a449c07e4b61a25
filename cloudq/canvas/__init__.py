"""Workflows: what is composed of signatures, how it is started, and how its parts are joined.

`nodes` are the pieces that a user puts together, `plan` makes messages of them, `starting` sends
those, `joins` starts what follows a group, `results` is what the caller holds.
"""
