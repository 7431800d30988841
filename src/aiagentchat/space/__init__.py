"""The Space: its rooms and their settings, the directory in it, and the content of every event type of ours.

Knows Matrix through `matrix.client`; knows no sessions, inboxes or gateways. `agents` and `daemon` use it.
"""
