"""A call becomes a message: its options, its route, its trace, and its result handle."""
