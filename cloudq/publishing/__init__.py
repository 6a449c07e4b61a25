"""Turns a call into a message and sends it: options, route, trace, and result handle."""
