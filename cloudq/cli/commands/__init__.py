"""The commands of `cloudq`, one file each."""
