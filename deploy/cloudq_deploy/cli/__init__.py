"""The commands `cloudq deploy` and `cloudq init`, the same for every cloud."""
