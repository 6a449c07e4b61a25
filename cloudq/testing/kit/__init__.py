"""Tools for tests of an app: in-memory services, a worker, virtual time, faults."""
