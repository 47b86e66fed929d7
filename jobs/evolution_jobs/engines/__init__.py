"""Engines that answer requests: one interface, several back ends."""
