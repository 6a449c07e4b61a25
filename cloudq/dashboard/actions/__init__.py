"""The actions of the pages: each is planned, confirmed with its number, and then carried out."""
