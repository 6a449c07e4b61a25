"""One delivery to one settlement: admission, the call, its outcome, and its commit."""
