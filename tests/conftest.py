"""What holds for every tier of tests."""

import signal

from hypothesis import settings

# No deadline: on a busy machine the time of one example says nothing. A failure is printed so that it can be replayed.
settings.register_profile("aiagentchat", deadline=None, print_blob=True)
settings.load_profile("aiagentchat")

# What runs in the background ignores Ctrl-C, and after `nohup` hanging up; so would every command that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
