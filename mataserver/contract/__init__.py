"""What is asked of a plugin, and given to it."""
