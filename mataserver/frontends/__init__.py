"""Several servers with a shared directory: discovery, and authenticated relaying of requests.

Each is a *front-end* of the same models: a load balancer may pick any. The id of a resource that
only one holds, such as a session, contains that front-end's tag.
"""
