"""The contract with plugins: what they implement, and what they are given."""
