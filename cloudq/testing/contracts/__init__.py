"""The contracts that every driver passes, as pytest base classes."""
