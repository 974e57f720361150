"""The plugins of this distribution, one per task: each can be disabled, or fail, on its own."""
