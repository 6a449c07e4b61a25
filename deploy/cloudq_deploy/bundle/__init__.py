"""Makes what a function runs: a reproducible zip, or a Dockerfile."""
