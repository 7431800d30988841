"""`cchat`: one file a command group. They know the gateway's client; `cli.system` alone starts what it talks to."""
