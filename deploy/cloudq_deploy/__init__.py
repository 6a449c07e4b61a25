"""Plans the cloud resources that a cloudq app needs, and makes them."""
