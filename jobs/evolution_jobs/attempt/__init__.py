"""One attempt at a stage: its inputs, its workspace, what it resumes from, and what it publishes."""
