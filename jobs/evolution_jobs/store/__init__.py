"""Object storage behind one small interface."""
