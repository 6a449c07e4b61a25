"""Limits on calls: their rate, the number at a time, and one per key in a queue.

`rules` reads a task's options. `worker_rate` and `global_rate` are the rates of one worker and of
all together, `concurrency` limits the running calls of a key, and `unique` the queued ones.
`keys` makes ordering keys. The `gate` checks rates and concurrency just before a task starts.
"""
