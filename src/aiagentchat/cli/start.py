"""Where `cchat` starts. A hook is told apart before anything is loaded: tools call it often, and it may not fail."""

import sys


def main() -> int:
    """Run one call; return its exit code."""
    words = sys.argv[1:]
    if words[:1] != ["hook"] or {"-h", "--help"} & set(words):
        from aiagentchat.cli.main import main as run  # noqa: PLC0415 - most of what a start takes is loading

        return run()
    if sys.stdin is None or sys.stdout is None:
        return 0
    is_answered_once = not {"--keep", "--wait"} & set(words)
    raw = b"" if "--keep" in words else sys.stdin.buffer.read()
    if is_answered_once and len(words) > 1:
        from aiagentchat.adapters.quick import answer  # noqa: PLC0415 - likewise

        printed = answer(words[1:], raw)
        if printed is not None:
            if printed:
                print(printed, flush=True)
            return 0
    from aiagentchat.cli.hook import main as run_hook  # noqa: PLC0415 - likewise

    return run_hook(words[1:], raw)
