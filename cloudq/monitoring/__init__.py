"""See and steer live workers: heartbeats, commands, recorded events, notifications."""
