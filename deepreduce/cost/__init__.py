"""Cost of networks under secure computation, from plain values: layers, protocols, links."""
