"""The data plane: applications' requests to the servers that have their models."""
