"""Decides what a run does next. Pure: no I/O, no clock, no kopf, no kubernetes, no torch."""
