"""The stations: they are read, and do not always answer."""
