"""Training tasks and what runs them: in this process or in worker processes."""
