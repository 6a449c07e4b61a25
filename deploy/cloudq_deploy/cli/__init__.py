"""`cloudq deploy` and `cloudq init`."""
