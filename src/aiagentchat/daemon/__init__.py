"""The daemon: wires all layers together in `daemon.main`, watches over them, and says how they are."""
