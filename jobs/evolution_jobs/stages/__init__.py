"""Stages: each reads its inputs from a workspace and leaves outputs in it."""
