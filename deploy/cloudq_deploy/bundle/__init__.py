"""Builds the zip of a function: project files, cloudq and locked dependencies."""
