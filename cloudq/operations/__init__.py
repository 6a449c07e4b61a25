"""See and steer an app in operation: one place for the command line and the dashboard."""
