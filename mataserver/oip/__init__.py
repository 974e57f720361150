"""The Open Inference Protocol, version 2, apart from how its messages travel.

REST and gRPC hand the same requests to the same server and get the same tensors back.
"""
