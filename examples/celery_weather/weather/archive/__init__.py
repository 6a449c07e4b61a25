"""The archive: days are stored and summed up."""
