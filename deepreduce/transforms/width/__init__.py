"""Scale the channels of any network."""
