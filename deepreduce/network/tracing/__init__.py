"""Following a module's forward pass: from any `nn.Module` to a graph that computes the same, in both modes."""
