"""One attempt at a stage: its workspace, what it resumes from, and what it publishes."""
