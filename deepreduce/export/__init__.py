"""Networks in formats that other programs open."""
