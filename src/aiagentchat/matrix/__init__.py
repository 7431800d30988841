"""The wire: one client method per Matrix endpoint, retry, and the events that come in.

Knows Matrix and nothing of agents. `space`, `agents` and `daemon` use it.
"""
