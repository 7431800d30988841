"""What `cchat setup` changes in the configuration of a coding tool, and how it takes that out again.

Works on texts; `cli.setup` reads and writes the files. What is ours is known by its name, `cchat`, or by its command.
"""

import json
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiagentchat.adapters.tools import Tool
from aiagentchat.client import Json
from aiagentchat.errors import InvalidRequestError

SERVER = "cchat"
"""What the MCP server is called in the tool."""

_HOOK_S, _END_S, _WAIT_S = 10, 3, 86_400
_HALF = re.compile("[\ud800-\udfff]")
_TOML_BEGIN = "# aiagentchat: 'cchat setup codex --undo' takes this server out"
_REWOKEN = {"rewakeMessage": "aiagentchat:", "rewakeSummary": "aiagentchat: somebody wrote"}
"""In place of words that call it an error. Claude Code has no page on these."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be set up.

    `cchat`: its path. `environment`: what it needs. `directory`: for sessions there alone. `agent`: None for
    ephemeral ones. `can_wake`: the tool knows hooks that wait in the background.
    """

    cchat: str
    environment: Mapping[str, str]
    directory: Path | None
    agent: str | None
    has_channel: bool
    can_wake: bool = True

    def server_arguments(self, tool: Tool) -> list[str]:
        """Return the arguments of the MCP server."""
        return ["mcp", "--tool", tool.name, *(["--channel"] if self.has_channel else []), *self._named]

    def hook_command(self, tool: Tool, *more: str) -> list[str]:
        """Return the words of a hook's command; they begin with the environment where there is any."""
        given = ["env", *(f"{name}={value}" for name, value in self.environment.items())] if self.environment else []
        return [*given, self.cchat, "hook", tool.name, *more, *self._named]

    @property
    def _named(self) -> list[str]:
        return [] if self.agent is None else ["--as", self.agent]


@dataclass(frozen=True, slots=True)
class Edit:
    """A file, and what to make of its text; "" is no file. Both raise `InvalidRequestError`."""

    path: Path
    apply: Callable[[str], str]
    undo: Callable[[str], str]


def edits(tool: Tool, wish: Wish, home: Path, environment: Mapping[str, str]) -> list[Edit]:
    """Return the edits that set a tool up."""
    match tool.name:
        case "claude-code":
            return _claude(tool, wish, home, environment)
        case "codex":
            return _codex(tool, wish, home, environment)
        case "gemini":
            return _gemini(tool, wish, home)
        case _:
            return _opencode(tool, wish, home, environment)


def _claude(tool: Tool, wish: Wish, home: Path, environment: Mapping[str, str]) -> list[Edit]:
    given = environment.get("CLAUDE_CONFIG_DIR")
    directory = Path(given) if given else home / ".claude"
    servers = Path(given) / ".claude.json" if given else home / ".claude.json"
    where = ["mcpServers"]
    settings = directory / "settings.json"
    if wish.directory is not None:
        where = ["projects", str(wish.directory), "mcpServers"]
        settings = wish.directory / ".claude" / "settings.local.json"
    server = {
        "type": "stdio",
        "command": wish.cchat,
        "args": wish.server_arguments(tool),
        "env": dict(wish.environment),
    }

    def handler(timeout_s: int, *more: str) -> dict[str, Json]:
        return {"type": "command", "command": shlex.join(wish.hook_command(tool, *more)), "timeout": timeout_s}

    hooks = {event: [{"hooks": [handler(_HOOK_S)]}] for event in tool.moments}
    # a channel wakes it as well; at the start a hook that waits would hold the session up
    if wish.can_wake and not wish.has_channel:
        hooks["Stop"][0]["hooks"].append(handler(_WAIT_S, "--wait") | {"asyncRewake": True} | _REWOKEN)
    hooks["SessionEnd"] = [{"hooks": [handler(_END_S)]}]
    return [_json_edit(servers, where, server, {}, tool), _json_edit(settings, [], None, hooks, tool)]


def _codex(tool: Tool, wish: Wish, home: Path, environment: Mapping[str, str]) -> list[Edit]:
    directory = Path(environment.get("CODEX_HOME") or home / ".codex")
    if wish.directory is not None:
        directory = wish.directory / ".codex"
    server = {"command": wish.cchat, "args": wish.server_arguments(tool), "env": dict(wish.environment)}
    config = directory / "config.toml"
    command = shlex.join(wish.hook_command(tool))
    hooks = {
        event: [{"hooks": [{"type": "command", "command": command, "timeout": _END_S if at == "end" else _HOOK_S}]}]
        for event, at in tool.moments.items()
    }
    return [
        Edit(config, partial(_add_to_toml, server, config), partial(_take_from_toml, config)),
        _json_edit(directory / "hooks.json", [], None, hooks, tool),
    ]


def _gemini(tool: Tool, wish: Wish, home: Path) -> list[Edit]:
    directory = home if wish.directory is None else wish.directory
    server = {"command": wish.cchat, "args": wish.server_arguments(tool), "env": dict(wish.environment)}
    handler = {
        "name": SERVER,
        "type": "command",
        "command": shlex.join(wish.hook_command(tool)),
        "timeout": 1000 * _HOOK_S,
    }
    hooks = {event: [{"hooks": [handler]}] for event in tool.moments}
    return [_json_edit(directory / ".gemini" / "settings.json", ["mcpServers"], server, hooks, tool)]


def _opencode(tool: Tool, wish: Wish, home: Path, environment: Mapping[str, str]) -> list[Edit]:
    directory = Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "opencode"
    server = {
        "type": "local",
        "command": [wish.cchat, *wish.server_arguments(tool)],
        "enabled": True,
        "environment": dict(wish.environment),
    }
    return [_json_edit((wish.directory or directory) / "opencode.json", ["mcp"], server, {}, tool)]


# --- JSON


def _json_edit(path: Path, where: list[str], server: Json, hooks: Mapping[str, list[Json]], tool: Tool) -> Edit:
    """Return an edit that puts a server at `where` (None: no server), and hooks behind those of each event."""

    def apply(text: str) -> str:
        config = _load(path, text)
        if server is not None:
            _require_ours(path, config, where)
            _object_at(path, config, where)[SERVER] = server
        if hooks:
            events = _object_at(path, config, ["hooks"])
            for event, groups in hooks.items():
                _put_hooks(_list_at(path, events, event), groups, tool)
        return _dump(config, text)

    def undo(text: str) -> str:
        config = _load(path, text)
        if server is not None and _is_our_server(_value_at(config, [*where, SERVER])):
            _remove(config, [*where, SERVER])
        events = config.get("hooks")
        for event in set(hooks).intersection(events if isinstance(events, dict) else ()):
            groups = _value_at(config, ["hooks", event])
            if isinstance(groups, list) and _take_hooks(groups, tool) and not groups:
                _remove(config, ["hooks", event])
        return text if config == _load(path, text) else _dump(config, text)

    return Edit(path, apply, undo)


def _put_hooks(groups: list[Json], ours: list[Json], tool: Tool) -> None:
    """Put our hooks where they were, else at the end: some tools know hooks by their place."""
    for place, group in enumerate(groups):
        if _handlers(group) and all(_runs_hook(each, tool) for each in _handlers(group)):
            groups[place : place + 1] = ours
            return
    _take_hooks(groups, tool)
    groups.extend(ours)


def _take_hooks(groups: list[Json], tool: Tool) -> bool:
    """Take out our hooks, and groups of which nothing is left; return whether there were any."""
    found = False
    for group in list(groups):
        handlers = _handlers(group)
        kept = [each for each in handlers if not _runs_hook(each, tool)]
        if len(kept) == len(handlers):
            continue
        found = True
        if kept:
            group["hooks"] = kept
        else:
            groups.remove(group)
    return found


def _handlers(group: Json) -> list[Json]:
    handlers = group.get("hooks") if isinstance(group, dict) else None
    return handlers if isinstance(handlers, list) else []


def _require_ours(path: Path, config: dict[str, Json], where: list[str]) -> None:
    """Refuse what would be lost, and a form that is another version's."""
    there = _value_at(config, [*where, SERVER])
    if there is not None and not _is_our_server(there):
        raise InvalidRequestError(f"{path} has an MCP server {SERVER} of another kind already, and was not touched")
    if where == ["mcp"] and isinstance(_value_at(config, ["mcp", "servers"]), dict):
        raise InvalidRequestError(
            f"{path} is of opencode 2, and was not touched",
            hint='add to its "mcp": {"servers": {"cchat": {"type": "local", "command": ["cchat", "mcp"]}}}',
        )


def _value_at(config: Json, path: list[str]) -> Json:
    for key in path:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _is_our_server(server: Json) -> bool:
    """Whether an MCP server is `cchat mcp`."""
    if not isinstance(server, dict):
        return False
    command, arguments = server.get("command"), server.get("args")
    words = [
        *(command if isinstance(command, list) else [command]),
        *(arguments if isinstance(arguments, list) else []),
    ]
    return len(words) > 1 and os.path.basename(str(words[0])) == "cchat" and words[1] == "mcp"


def _load(path: Path, text: str) -> dict[str, Json]:
    try:
        config = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise InvalidRequestError(
            f"{path} is no plain JSON (a comment in it, perhaps), and was not touched",
            hint="add by hand what the tool's page in docs/agents says",
        )
    return config


def _dump(config: dict[str, Json], before: str) -> str:
    """Return the text of a configuration, indented as it was."""
    found = re.search(r"^[ \t]+", before, re.MULTILINE)
    indent = found.group() if found else "  "
    text = json.dumps(config, indent=indent, ensure_ascii=False) + "\n"
    if text.isascii() or not _HALF.search(text):
        return text
    return json.dumps(config, indent=indent) + "\n"  # half a character, which no file can hold


def _remove(config: dict[str, Json], path: list[str]) -> None:
    """Remove a key, and then each object on the way that is empty without it."""
    objects = [config]
    for key in path[:-1]:
        inner = objects[-1].get(key)
        if not isinstance(inner, dict):
            return
        objects.append(inner)
    if path[-1] not in objects[-1]:
        return
    for holder, key in zip(reversed(objects), reversed(path), strict=True):
        del holder[key]
        if holder:
            return


def _runs_hook(handler: Json, tool: Tool) -> bool:
    if not isinstance(handler, dict) or not isinstance(handler.get("command"), str):
        return False
    arguments = handler.get("args")
    try:
        words = [handler["command"], *arguments] if isinstance(arguments, list) else shlex.split(handler["command"])
    except ValueError:
        return False
    return any(
        isinstance(word, str)
        and os.path.basename(word) == "cchat"
        and words[place + 1 : place + 3] == ["hook", tool.name]
        for place, word in enumerate(words)
    )


def _object_at(path: Path, config: dict[str, Json], where: list[str]) -> dict[str, Json]:
    for key in where:
        config = config.setdefault(key, {})
        if not isinstance(config, dict):
            raise InvalidRequestError(f"{key} in {path} is no object, and was not touched")
    return config


def _list_at(path: Path, events: dict[str, Json], event: str) -> list[Json]:
    groups = events.setdefault(event, [])
    if not isinstance(groups, list):
        raise InvalidRequestError(f"the hooks of {event} in {path} are no list, and were not touched")
    return groups


# --- TOML, of which comments and order stay


def _add_to_toml(server: Mapping[str, Json], path: Path, text: str) -> str:
    text = _take_from_toml(path, text)
    if SERVER in _servers(path, text):
        raise InvalidRequestError(f"{path} has an MCP server {SERVER} already", hint="take it out first")
    lines = [_TOML_BEGIN, f"[mcp_servers.{SERVER}]"]
    lines += [f"{key} = {_toml(value)}" for key, value in server.items() if value != {}]
    added = "\n".join(lines) + "\n"
    added = f"{text.rstrip()}\n\n{added}" if text.strip() else added
    _servers(path, added)
    return added


def _take_from_toml(path: Path, text: str) -> str:
    """Take out our table, and tables within it: from the line above it to the next table, which is another's."""
    _servers(path, text)
    lines = text.splitlines(keepends=True)
    begin = next((n for n, line in enumerate(lines) if line.strip() == _TOML_BEGIN), None)
    if begin is None:
        return text
    end = begin + 1
    while end < len(lines) and not (lines[end].startswith("[") and not _is_our_table(lines[end])):
        end += 1
    before = "".join(lines[:begin]).rstrip()
    taken = f"{before}\n" if before else ""
    rest = "".join(lines[end:])
    return f"{taken}\n{rest}" if taken and rest else taken + rest


def _is_our_table(line: str) -> bool:
    return line.startswith((f"[mcp_servers.{SERVER}]", f"[mcp_servers.{SERVER}."))


def _servers(path: Path, text: str) -> Mapping[str, Json]:
    try:
        servers = tomllib.loads(text).get("mcp_servers", {})
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequestError(f"{path} is no TOML, and was not touched: {error}") from None
    return servers if isinstance(servers, dict) else {}


def _toml(value: Json) -> str:
    """Return a text, a list of texts or an object of texts as TOML, whose basic strings are JSON's."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)
