"""Reports: what is written and sent."""
