"""What keeps calls from running too often, too many at a time, or twice in a queue.

`rules` reads a task's options, `paces` and `buckets` are rates (of a worker, and of all),
`holds` counts who runs under a key, `unique` who waits under one. The `gate` asks them all, just
before a task starts.
"""
