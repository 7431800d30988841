"""The daemon's local HTTP API: credentials, schemas, routes. All that the CLI, the MCP server and adapters talk to.

Adds HTTP to `agents.service` and nothing else.
"""
