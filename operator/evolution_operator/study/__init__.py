"""A blind study in which people compare answers of models: created, served as web pages, and reported."""
