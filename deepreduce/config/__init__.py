"""What a run can be told: the schema, how a file becomes a config, and what is built from it."""
