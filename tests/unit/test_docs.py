"""The pages list what the code has: settings, routes, errors, conditions, messages, functions. Links lead somewhere."""

import argparse
import ast
import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from aiagentchat.cli.main import build_parser
from aiagentchat.config import OPTIONS, Option, Paths, Settings, load_settings
from aiagentchat.daemon import health
from aiagentchat.daemon.doctor import CHECKS, CHECKS_OF_ACCOUNTS
from aiagentchat.daemon.metrics import METRICS
from aiagentchat.errors import OUTCOMES
from aiagentchat.gateway.looking_on import SIGHTS
from aiagentchat.gateway.routes import ROUTES
from aiagentchat.gateway.routing import Route
from aiagentchat.matrix import client
from aiagentchat.model import AgentName, DirectoryEntry, Message, RoomAlias, RoomId, UserId
from aiagentchat.space.layout import Layout, RoomSpec, agent_room_spec, broadcast_spec, space_spec
from aiagentchat.space.names import Naming

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "aiagentchat"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
MACHINE_PATH = re.compile(r"(?<![\w.~$}/:-])/(?:home|private|root|Users|work)\b")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def section(text: str, heading: str) -> str:
    """Return what stands under a heading, up to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,2}} |^\1 |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no heading {heading!r}"
    return found.group(2)


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows but headers and rules; an escaped bar is no border."""
    lines = [line for line in text.splitlines() if line.lstrip().startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]] for line in lines]
    return [row for row, after in zip(cells, [*cells[1:], []], strict=False) if not is_rule(row) and not is_rule(after)]


def is_rule(row: list[str]) -> bool:
    return bool(row) and all(re.fullmatch(r":?-+:?", cell) for cell in row)


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def blocks(text: str, language: str) -> list[str]:
    return [body for kind, body in FENCED.findall(text) if kind == language]


# --- configuration.md


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_setting_is_documented_with_its_default(option: Option) -> None:
    settings = Settings(Paths(Path(), Path()), operator="")
    found = [row for row in rows(section(page("configuration.md"), "Settings")) if quoted(row[1]) == [option.env]]
    assert len(found) == 1
    key, _, default, _ = found[0]
    assert key == ("–" if option.env_only else f"`{option.name}`")
    assert not settings.sources
    if default.startswith("none"):
        assert not getattr(settings, option.name)
    else:
        assert [option.parse(text) for text in quoted(default)] == [getattr(settings, option.name)]


def test_no_setting_is_documented_that_there_is_not() -> None:
    documented = {quoted(row[1])[0] for row in rows(section(page("configuration.md"), "Settings"))}
    assert documented == {option.env for option in OPTIONS}


def test_the_example_of_a_config_file_can_be_used(tmp_path: Path) -> None:
    (example,) = blocks(page("configuration.md"), "toml")
    (tmp_path / "config.toml").write_text(example)
    settings = load_settings({"AIAGENTCHAT_HOME": str(tmp_path)})
    assert set(tomllib.loads(example)) == {name for name, source in settings.sources.items() if source != "default"}


def test_every_file_of_a_home_is_documented() -> None:
    paths = Paths(Path("config"), Path("data"))
    properties = [name for name, value in vars(Paths).items() if isinstance(value, property)]
    listed = set(quoted(section(page("configuration.md"), "The files of a home")))
    assert {
        getattr(paths, name).relative_to(*getattr(paths, name).parts[:1]).as_posix() for name in properties
    } <= listed


# --- gateway.md


def test_the_routes_are_the_headings_of_the_gateway_page() -> None:
    headings = re.findall(r"^### (.+)$", section(page("gateway.md"), "Routes"), re.MULTILINE)
    assert headings == [f"{route.method} {route.path}" for route in ROUTES]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_field_of_a_route_is_documented_and_no_other(route: Route) -> None:
    text = section(page("gateway.md"), f"{route.method} {route.path}")
    models = [model for model in (route.query, route.body) if model is not None]
    assert {quoted(row[0])[0] for row in rows(text)} == {name for model in models for name in model.model_fields}
    answered = route.answer.model_fields if route.answer is not None and issubclass(route.answer, BaseModel) else {}
    assert [name for name in answered if f'"{name}"' not in text] == []


def test_the_events_of_a_room_are_documented() -> None:
    text = section(page("gateway.md"), "GET /rooms/{name}/events")
    assert set(re.findall(r"^- `(\w+)`:", text, re.MULTILINE)) == {"message", *SIGHTS.values()}


def test_every_error_code_is_documented_with_its_status_and_exit_code() -> None:
    listed = {quoted(row[0])[0]: (int(row[1]), int(row[2])) for row in rows(section(page("gateway.md"), "Errors"))}
    assert listed == {code: (outcome.http_status, outcome.exit_code) for code, outcome in OUTCOMES.items()}


def test_the_example_of_a_message_has_every_field_of_one() -> None:
    (example,) = blocks(section(page("gateway.md"), "Messages"), "json")
    assert list(json.loads(example)) == [item.name for item in fields(Message)]


def test_the_example_of_the_directory_has_every_field_of_an_entry() -> None:
    (example,) = blocks(section(page("gateway.md"), "GET /who"), "json")
    assert list(json.loads(example)["agents"][0]) == [item.name for item in fields(DirectoryEntry)]


# --- operating.md and security.md


def test_the_health_conditions_are_documented() -> None:
    tree = ast.parse(inspect.getsource(health))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Condition"]
    names = [ast.literal_eval(keyword.value) for call in calls for keyword in call.keywords if keyword.arg == "name"]
    assert names
    assert [quoted(row[0])[0] for row in rows(section(page("operating.md"), "Health"))] == names


def test_the_metrics_are_documented() -> None:
    listed = {quoted(row[0])[0]: row[1] for row in rows(section(page("operating.md"), "Metrics"))}
    assert listed == {name: family.kind for name, family in METRICS.items()}


def test_the_checks_of_the_doctor_are_documented() -> None:
    table = rows(section(page("operating.md"), "What `cchat doctor` checks"))
    assert [quoted(row[0])[0] for row in table] == list(CHECKS + CHECKS_OF_ACCOUNTS)


def specs(policy: str) -> dict[str, RoomSpec]:
    naming, space = Naming("example.org"), RoomId("!space")
    layout = Layout(UserId("@alice:example.org"), policy=policy)
    return {
        "Space": space_spec(RoomAlias("#aiagentchat:example.org"), naming.daemon, layout),
        "agent room": agent_room_spec(AgentName("claude-dev"), naming, layout, space),
        "broadcast room": broadcast_spec(RoomAlias("#all:example.org"), naming.daemon, layout, space),
    }


def permission(spec: RoomSpec, what: str) -> set[Any]:
    """Return what a row of the table says of a room: a set of one, where all that it names is the same."""
    levels = spec.power_levels
    if what == "join rule":
        return {spec.join_rules["join_rule"]}
    if what == "history visibility":
        return {spec.history_visibility}
    if what in ("messages", "other state"):
        return {levels["events_default" if what == "messages" else "state_default"]}
    if quoted(what):
        return {levels["events"].get(quoted(what)[0], levels["state_default"])}
    return {levels[action] for action in what.split(", ")}


@pytest.mark.parametrize("policy", ["open", "strict"])
@pytest.mark.parametrize(("column", "room"), list(enumerate(["Space", "agent room", "broadcast room"], 1)))
def test_the_permissions_documented_are_those_of_the_rooms(policy: str, column: int, room: str) -> None:
    for row in rows(section(page("security.md"), "Who may do what")):
        cell = row[column]
        if policy == "strict" and (exception := re.search(r"\(strict: (\d+)\)", cell)):
            cell = exception.group(1)
        told = quoted(cell)[0] if quoted(cell) else int(cell.split()[0])
        assert permission(specs(policy)[room], row[0]) == {told}, row
    listed = {name for row in rows(section(page("security.md"), "Who may do what")) for name in quoted(row[0])}
    assert set(specs(policy)[room].power_levels["events"]) <= listed


ADVERSARIES = re.split(r"^### ", section(page("security.md"), "Who attacks, and what stops them"), flags=re.MULTILINE)[
    1:
]


@pytest.mark.parametrize("text", ADVERSARIES, ids=lambda text: text.partition("\n")[0])
def test_every_claim_of_what_somebody_cannot_do_names_tests_that_there_are(text: str) -> None:
    claims = rows(text)
    assert claims
    for claim, tests in claims:
        assert claim
        assert quoted(tests), claim
        for named in quoted(tests):
            find_test(named)


# --- troubleshooting.md and architecture.md


@cache
def texts_of_the_source() -> str:
    trees = (ast.parse(path.read_text()) for path in SOURCE.rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


MESSAGES = [text for row in rows(page("troubleshooting.md")) for text in quoted(row[0]) if " " in text]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_to_look_up_is_one_that_the_code_says(message: str) -> None:
    assert [part for part in message.split("…") if part.strip() not in texts_of_the_source()] == []


@cache
def defined_in(path: Path) -> frozenset[str]:
    """Return the functions, classes, `Class.method`s and `Class.attribute`s of a module."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{member}" for member in members(node)}
    return frozenset(names)


def members(node: ast.ClassDef) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            yield part.name
        elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and ast.unparse(part.value) == "self":
            yield part.attr


STEPS = re.findall(r"^\|(?: \d+ \|)? `([\w/]+\.py)` \| ([^|]+) \|", page("architecture.md"), re.MULTILINE)


@pytest.mark.parametrize(("file", "functions"), STEPS)
def test_a_step_through_the_code_names_functions_of_its_file(file: str, functions: str) -> None:
    assert set(quoted(functions)) - defined_in(SOURCE / file) == set()


def test_what_the_architecture_page_names_is_there() -> None:
    assert STEPS
    names = quoted(FENCED.sub("", page("architecture.md")))
    mentioned = {name for name in names if re.fullmatch(r"[a-z_/]+(\.py|/)", name)}
    assert [name for name in mentioned if not ((SOURCE / name).exists() or (ROOT / name).exists())] == []
    everything = frozenset().union(*(defined_in(path) for path in SOURCE.rglob("*.py")))
    methods = {name for name in names if (parts := name.split("."))[0] in everything and len(parts) == 2}
    assert methods
    assert methods - everything == set()
    packages = {item.name for item in SOURCE.iterdir() if item.is_dir() and item.name != "__pycache__"}
    assert {f"{name}/" for name in packages} <= mentioned


# --- compatibility.md


def endpoints_of_the_client() -> dict[str, str]:
    """Return the endpoint of each method of the client, such as `PUT /devices/{}`; a path of no v3 API is whole."""
    found = {}
    for method in ast.walk(ast.parse((SOURCE / "matrix" / "client.py").read_text())):
        if isinstance(method, ast.AsyncFunctionDef):
            nodes = list(ast.walk(method))
            paths = {ast.unparse(node.targets[0]): node.value for node in nodes if isinstance(node, ast.Assign)}
            for call in nodes:
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "self._request":
                    verb, path = call.args
                    found[method.name] = f"{ast.literal_eval(verb)} {render_path(paths.get(ast.unparse(path), path))}"
    return found


def render_path(path: ast.expr) -> str:
    assert isinstance(path, ast.Tuple)
    parts: list[str] = []
    for part in path.elts:
        if isinstance(part, ast.Starred):
            base = ast.unparse(part.value)
            parts += () if base == "_V3" else getattr(client, base)
        else:
            parts.append(str(part.value) if isinstance(part, ast.Constant) else "{}")
    return "".join(f"/{part}" for part in parts)


def endpoints_listed(heading: str) -> list[str]:
    listed = [quoted(row[0])[0] for row in rows(section(page("compatibility.md"), heading))]
    return [re.sub(r"\{\w+\}", "{}", endpoint) for endpoint in listed]


def test_every_endpoint_that_the_daemon_asks_for_is_documented_and_none_that_the_client_has_not() -> None:
    endpoints, listed = endpoints_of_the_client(), endpoints_listed("What the daemon asks for")
    source = "".join(path.read_text() for path in SOURCE.rglob("*.py") if path.name != "client.py")
    needed = {endpoint for method, endpoint in endpoints.items() if f".{method}(" in source}
    assert needed <= set(listed) <= set(endpoints.values())
    assert len(listed) == len(set(listed))


def test_every_endpoint_that_the_homeserver_asks_for_is_documented() -> None:
    source = (SOURCE / "matrix" / "appservice.py").read_text()
    (base,) = re.findall(r'base = "(.+)"', source)
    routes = re.findall(r'add_(\w+)\(base \+ "(.+?)"', source)
    served = [f"{verb.upper()} {base}{re.sub(r'{.+}', '{}', path)}" for verb, path in routes]
    assert endpoints_listed("What the homeserver asks for") == served


# --- cli.md


def test_every_command_and_every_option_of_it_is_in_the_page_of_commands() -> None:
    (commands,) = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    headings = [heading.replace("`", "") for heading in HEADING.findall(page("cli.md"))]
    assert [name for name in commands.choices if not any(re.match(rf"cchat {name}\b", each) for each in headings)] == []
    of_all = {"--help", "--json", "--as"}  # which "Who a command speaks for" and "Output" tell
    for name, command in commands.choices.items():
        text = section(page("cli.md"), f"`cchat {name}`")
        shown = [action for action in command._actions if action.help != argparse.SUPPRESS]
        options = {option for action in shown for option in action.option_strings if option.startswith("--")}
        assert [option for option in options - of_all if option not in text] == []


# --- every page


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = HEADING.findall(FENCED.sub("", path.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", FENCED.sub("", path.read_text()))
    broken = []
    for link in links:
        target, _, anchor = link.partition("#")
        file = (path.parent / target) if target else path
        if "://" not in link and (not file.exists() or (anchor and anchor not in anchors(file))):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_page_names_a_path_of_some_machine(path: Path) -> None:
    assert MACHINE_PATH.findall(path.read_text()) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_block_of_code_is_closed(path: Path) -> None:
    assert len(re.findall(r"^ *```", path.read_text(), re.MULTILINE)) % 2 == 0


# --- reliability.md

LESSONS = rows(section(page("reliability.md"), "What went wrong elsewhere"))


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda row: row[0].split("**")[1])
def test_every_lesson_is_named_by_the_tests_that_are_listed_for_it(lesson: list[str]) -> None:
    title = lesson[0].split("**")[1]
    assert quoted(lesson[2])
    for named in quoted(lesson[2]):
        lessons = (ast.get_docstring(find_test(named)) or "").partition("Lesson: ")[2]
        assert title in lessons.rstrip(".").split("; "), named


def find_test(named: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    """Return the test that a page names as `unit/test_docs.py::test_of_something`."""
    file, _, function = named.partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = [node for node in functions if node.name == function]
    assert len(found) == 1, f"there is no test {named}"
    return found[0]
