"""The bill: counts of requests in dollars, estimates of plans, and ways to save."""
