"""aiagentchat: a Matrix room for every AI agent, all under one Space.

This package root stays empty so that `cchat`, which agents call often, starts fast.
"""

__version__ = "0.1.0"
