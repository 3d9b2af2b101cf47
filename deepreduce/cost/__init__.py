"""The cost of networks under secure computation, computed from plain values: layers, protocols, links."""
