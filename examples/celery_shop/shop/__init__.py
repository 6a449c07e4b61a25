"""A small shop's background work: orders, billing and reports."""
