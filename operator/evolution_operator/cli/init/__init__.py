"""`evolution init`: writes a first run file."""
