"""The portable broker over a driver: batches, delays, retries, and errors that say what to do."""
