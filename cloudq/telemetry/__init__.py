"""What is told to monitoring: traces (OpenTelemetry), and counts of what has run.

Nothing here is imported from the packages of a monitoring system before it is asked for.
"""
