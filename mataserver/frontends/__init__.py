"""Several servers on one shared directory: who there is, and how one vouches for another's asker.

Each is a *front-end* of the same models: behind a balancer any of them may be asked. What one alone
holds, such as a session, carries its tag in the id.
"""
