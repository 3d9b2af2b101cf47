"""Scale the channels of any network: find which belong together, and cut the least important ones."""
