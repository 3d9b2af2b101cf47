"""Published methods, one per file: each turns a network into plans, and asks for the trainings that it needs."""
