"""Stages: each reads its inputs from a workspace and writes its outputs to it."""
