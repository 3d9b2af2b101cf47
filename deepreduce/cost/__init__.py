"""What ReLUs cost under secure computation."""
