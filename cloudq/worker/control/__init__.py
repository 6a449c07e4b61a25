"""Commands and metrics inside a worker: heartbeat, actions, counters."""
