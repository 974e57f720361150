"""The plugins of this distribution, one a task: each is switched off, and broken, by itself."""
