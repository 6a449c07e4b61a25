"""The data of each page, as plain values that the API gives out too."""
