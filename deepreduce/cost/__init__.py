"""What networks cost under secure computation, from plain values: layers, protocols, links."""
