"""Passes that train."""
