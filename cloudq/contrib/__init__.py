"""Layers between cloudq and other projects; nothing of the core imports them."""
