"""Start the parties' processes, talk to them, and end them."""
