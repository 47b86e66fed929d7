"""Readers, preprocessing, splitting and leak checks."""
