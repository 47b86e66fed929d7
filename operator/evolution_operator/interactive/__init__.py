"""The Python API, for notebooks and scripts: runs that are built, driven and read from Python."""
