"""Share small networks, data and runs between tests, and count without deepreduce."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
