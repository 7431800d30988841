"""What holds for every tier of tests."""

import os
import signal

from hypothesis import settings

from aiagentchat.homeserver import ports

# No deadline: on a busy machine the time of one example says nothing. A failure is printed so that it can be replayed.
settings.register_profile("aiagentchat", deadline=None, print_blob=True)
# `make fuzz` has the same tests make this many; those that say how many they make stay as they are.
settings.register_profile("fuzz", settings.get_profile("aiagentchat"), max_examples=1500)
settings.load_profile("aiagentchat")

# What runs in the background ignores Ctrl-C, and after `nohup` hanging up; so would every command that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# What tests choose for themselves lies below what commands choose, and each process of tests has a part of its own: a
# port of theirs is often free for a while, between two daemons, and another would take it.
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
ports._FIRST_PORT, ports._PORTS = 10_000 + 700 * _worker, 700
