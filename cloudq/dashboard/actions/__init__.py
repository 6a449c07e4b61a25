"""What a page may do: each action is planned, confirmed with its number, and then carried out."""
