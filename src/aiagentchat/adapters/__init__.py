"""How a message reaches a real agent. Every adapter talks to the gateway only, through `client`."""
