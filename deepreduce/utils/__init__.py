"""Small tools that every package may use and that use no package but errors."""
