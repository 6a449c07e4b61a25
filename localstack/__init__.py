"""The clouds' services on this machine, without docker, for development and tests."""
