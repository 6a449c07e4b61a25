"""Plans and applies the cloud resources that a cloudq app needs."""
