"""Hosted agents: boot, sessions, heartbeat, inbox and sending. `agents.host` is what the gateway reaches.

Uses `space` and `matrix`; knows no HTTP routes and no credentials.
"""
