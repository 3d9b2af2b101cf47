"""Start the parties' processes, exchange messages with them, and end them."""
