"""What tests of an app need: memory in place of its services, a worker, virtual time, faults."""
