"""Child processes: how they start, what they get and what confines them."""
