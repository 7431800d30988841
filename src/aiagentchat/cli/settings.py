"""`cchat config`: the settings in force, and where each came from."""

from aiagentchat.cli.invocation import Invocation
from aiagentchat.config import OPTIONS


def show(call: Invocation) -> None:
    """Print every setting; secrets are masked."""
    settings = call.settings
    shown = {}
    for option in OPTIONS:
        value = getattr(settings, option.name)
        if option.secret and value:
            value = "***"
        shown[option.name] = {"value": value, "source": settings.sources[option.name], "environment": option.env}
    paths = {
        "config_file": str(settings.paths.config_file),
        "data_dir": str(settings.paths.data_dir),
        "socket": str(settings.paths.socket),
    }
    if call.out.as_json:
        call.out.data({"settings": shown, "paths": paths})
        return
    width = max(len(name) for name in [*shown, *paths])
    for name, item in shown.items():
        value = item["value"]
        text = ", ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
        call.out.line(f"{name.ljust(width)}  {text or '–'}  ({item['source']})")
    for name, path in paths.items():
        call.out.line(f"{name.ljust(width)}  {path}")
