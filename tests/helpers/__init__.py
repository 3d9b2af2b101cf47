"""What several tests share: small networks, data and runs, and counts that do not use deepreduce."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
