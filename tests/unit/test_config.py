"""Settings: which source wins, what a bad value says, where files lie and who can read the secret ones."""

import os
import stat
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.config import (
    OPTIONS,
    Option,
    Paths,
    Settings,
    ensure_private_dir,
    find_paths,
    load_settings,
    read_private,
    write_private,
)
from aiagentchat.errors import InvalidRequestError

FILE_OPTIONS = [option for option in OPTIONS if not option.env_only]
# For each setting three texts that mean different things, so that the source of a value can be told.
TEXTS: dict[str, tuple[str, str, str]] = {
    "server_name": ("flag.example", "env.example", "file.example"),
    "space_alias": ("#flag:example.org", "#env:example.org", "#file:example.org"),
    "port": ("8001", "8002", "8003"),
    "homeserver_url": ("http://flag.test", "http://env.test", "http://file.test"),
    "public_url": ("https://flag.test", "https://env.test:8448", "https://file.test/"),
    "registration": ("/flag.yaml", "/env.yaml", "/file.yaml"),
    "operator": ("flag", "env", "file"),
    "daemons": ("@flag:example.org", "@env:example.org,@too:example.org", "@file:example.org"),
    "shared_room": ("#flag:example.org", "!env", "!file:example.org"),
    "approvers": ("@flag:example.org", "@env:example.org,@too:example.org", "@file:example.org"),
    "people": ("@flag:example.org", "@env:example.org,@too:example.org", "@file:example.org"),
    "space_policy": ("strict", "open", "strict"),
    "sidebar": ("off", "pictures", "quiet"),
    "session_ttl_s": ("1", "2", "3"),
    "ephemeral_ttl_s": ("1", "2", "3"),
    "deadline_s": ("1", "2", "3"),
    "directory_ttl_s": ("1", "2", "3"),
    "loop_hops": ("1", "2", "3"),
    "loop_rate": ("1", "2", "3"),
    "agent_rate": ("1", "2", "3"),
    "file_limit": ("1", "2", "3"),
    "listen": ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"),
    "events_host": ("127.0.0.2", "0.0.0.0", "::1"),
    "url": ("http://flag.test", "http://env.test", "http://file.test"),
    "log_level": ("debug", "warning", "error"),
    "log_format": ("json", "text", "json"),
    "agent": ("flag", "env", "file"),
    "token": ("flag", "env", "file"),
}
BAD = [
    ("server_name", "no spaces.example"),
    ("server_name", ""),
    ("server_name", "example.org/path"),
    ("space_alias", "aiagentchat:example.org"),
    ("space_alias", "#no-server"),
    ("space_alias", f"#{'a' * 255}:example.org"),
    ("port", "http"),
    ("port", "65536"),
    ("port", "-1"),
    ("public_url", "http://chat.example.org"),
    ("public_url", "http://localhost.example.org"),
    ("public_url", "https://chat.example.org/matrix"),
    ("public_url", "https://user@chat.example.org"),
    ("public_url", "chat.example.org"),
    ("public_url", ""),
    ("operator", "Alice"),
    ("operator", "aiagentchat-alice"),
    ("people", "alice"),
    ("daemons", "aiagentchat.ci"),
    ("shared_room", "team"),
    ("shared_room", "#team"),
    ("shared_room", "!"),
    ("people", "@alice:example.org,bob"),
    ("space_policy", "closed"),
    ("sidebar", "loud"),
    ("session_ttl_s", "0"),
    ("session_ttl_s", "-1"),
    ("session_ttl_s", "nan"),
    ("deadline_s", "inf"),
    ("deadline_s", "soon"),
    ("directory_ttl_s", ""),
    ("log_level", "LOUD"),
    ("log_format", "xml"),
    ("loop_hops", "-1"),
    ("loop_rate", "100000"),
    ("loop_rate", "many"),
    ("file_limit", "20M"),
    ("file_limit", "1000000000"),
]


def by_name(name: str) -> Option:
    return next(option for option in OPTIONS if option.name == name)


def option_id(option: Option) -> str:
    return option.name


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def env(tmp_path: Path) -> Mapping[str, str]:
    """The environment of a home that is all its own."""
    return {"AIAGENTCHAT_HOME": str(tmp_path)}


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


# ── which source wins ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("option", OPTIONS, ids=option_id)
def test_a_flag_wins_over_the_environment(option: Option, env: Mapping[str, str]) -> None:
    flag, environment, _ = TEXTS[option.name]
    settings = load_settings({**env, option.env: environment}, {option.name: flag})
    assert getattr(settings, option.name) == option.parse(flag)
    assert settings.sources[option.name] == f"flag --{option.name.replace('_', '-')}"


@pytest.mark.parametrize("option", FILE_OPTIONS, ids=option_id)
def test_the_environment_wins_over_the_file(option: Option, env: Mapping[str, str], config_file: Path) -> None:
    _, environment, file = TEXTS[option.name]
    config_file.write_text(f'{option.name} = "{file}"\n')
    settings = load_settings({**env, option.env: environment})
    assert getattr(settings, option.name) == option.parse(environment)
    assert settings.sources[option.name] == f"environment {option.env}"


@pytest.mark.parametrize("option", FILE_OPTIONS, ids=option_id)
def test_the_file_wins_over_the_default(option: Option, env: Mapping[str, str], config_file: Path) -> None:
    file = TEXTS[option.name][2]
    config_file.write_text(f'{option.name} = "{file}"\n')
    settings = load_settings(env)
    assert getattr(settings, option.name) == option.parse(file)
    assert settings.sources[option.name] == str(config_file)


@pytest.mark.parametrize("option", OPTIONS, ids=option_id)
def test_a_default_is_said_to_be_one(option: Option, env: Mapping[str, str]) -> None:
    assert load_settings(env).sources[option.name] == "default"


def test_every_setting_is_an_option_and_every_option_a_setting() -> None:
    assert {field.name for field in fields(Settings)} - {"paths", "sources"} == {option.name for option in OPTIONS}
    assert set(TEXTS) == {option.name for option in OPTIONS}, "a new setting is tested here too"


def test_environment_names_are_those_of_the_specification_and_ours() -> None:
    foreign = {option.env for option in OPTIONS if not option.env.startswith("AIAGENTCHAT_")}
    assert foreign == {"SPACE_ALIAS", "SERVER_NAME", "MATRIX_ROOM_ID"}
    assert len({option.env for option in OPTIONS}) == len(OPTIONS)


def test_the_space_is_named_after_the_server_unless_it_is_set(env: Mapping[str, str]) -> None:
    assert load_settings(env).space_alias == "#aiagentchat:localhost"
    assert load_settings({**env, "SERVER_NAME": "example.org"}).space_alias == "#aiagentchat:example.org"
    assert load_settings({**env, "SPACE_ALIAS": "#team:other.org"}).space_alias == "#team:other.org"


def test_the_file_may_use_the_types_of_toml(env: Mapping[str, str], config_file: Path) -> None:
    config_file.write_text('port = 8008\ndeadline_s = 2.5\npeople = ["@a:example.org", "@b:example.org"]\n')
    settings = load_settings(env)
    assert (settings.port, settings.deadline_s) == (8008, 2.5)
    assert settings.people == ("@a:example.org", "@b:example.org")


@pytest.mark.parametrize(
    ("user", "operator"),
    [
        ("alice", "alice"),
        ("Alice", "alice"),
        ("alice smith", "operator"),
        ("aiagentchat", "operator"),
        ("", "operator"),
    ],
)
def test_the_operator_is_the_user_where_that_is_a_localpart(
    user: str, operator: str, env: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOGNAME", raising=False)
    monkeypatch.setenv("USER", user)
    assert load_settings(env).operator == operator


# ── what a bad value says ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("name", "text"), BAD)
def test_a_bad_value_names_the_setting_the_value_and_its_source(name: str, text: str, env: Mapping[str, str]) -> None:
    option = by_name(name)
    with pytest.raises(InvalidRequestError) as caught:
        load_settings({**env, option.env: text})
    assert f"{name} = {text!r} (environment {option.env})" in caught.value.message


def test_a_bad_value_in_the_file_names_the_file(env: Mapping[str, str], config_file: Path) -> None:
    config_file.write_text("port = 70000\n")
    with pytest.raises(InvalidRequestError) as caught:
        load_settings(env)
    assert str(config_file) in caught.value.message


def test_a_bad_value_that_a_better_source_replaces_does_not_matter(env: Mapping[str, str]) -> None:
    assert load_settings({**env, "AIAGENTCHAT_PORT": "http"}, {"port": "0"}).port == 0


def test_a_bad_secret_is_not_shown(env: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> Any:
        raise ValueError("must be a token")

    secret = Option("token", "AIAGENTCHAT_TOKEN", refuse, "a credential", secret=True, env_only=True)
    monkeypatch.setattr("aiagentchat.config.OPTIONS", (secret,))
    with pytest.raises(InvalidRequestError, match=r"token = \*\*\* ") as caught:
        load_settings({**env, "AIAGENTCHAT_TOKEN": "s3cret"})
    assert "s3cret" not in f"{caught.value}{caught.value.hint}"
    assert caught.value.__cause__ is None


def test_the_only_secret_is_read_from_the_environment_alone() -> None:
    secrets = [option for option in OPTIONS if option.secret]
    assert [option.name for option in secrets] == ["token"]
    assert all(option.env_only for option in secrets), "config.toml is no place for a secret"


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.env_only], ids=option_id)
def test_the_file_cannot_say_who_speaks(option: Option, env: Mapping[str, str], config_file: Path) -> None:
    config_file.write_text(f'{option.name} = "x"\n')
    with pytest.raises(InvalidRequestError, match=f"unknown setting {option.name}"):
        load_settings(env)


def test_an_unknown_setting_is_refused_and_the_known_ones_are_named(env: Mapping[str, str], config_file: Path) -> None:
    config_file.write_text('prot = 8008\nserver_name = "example.org"\n')
    with pytest.raises(InvalidRequestError, match="unknown setting prot") as caught:
        load_settings(env)
    assert "port" in caught.value.hint


@pytest.mark.parametrize("data", [b"port = ", b"\xff\xfe", b"= 1", b"port = 1\nport = 2\n", b"[port"])
def test_a_file_that_is_not_toml_is_a_bad_request_that_names_it(
    data: bytes, env: Mapping[str, str], config_file: Path
) -> None:
    config_file.write_bytes(data)
    with pytest.raises(InvalidRequestError, match=r"not valid TOML") as caught:
        load_settings(env)
    assert str(config_file) in caught.value.message


@given(name=st.sampled_from([option.name for option in OPTIONS]), text=st.text(max_size=300))
def test_any_text_is_a_value_or_a_bad_request(name: str, text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    env = {"AIAGENTCHAT_HOME": str(tmp_path_factory.getbasetemp() / "nothing-here")}
    try:
        settings = load_settings(env, {name: text})
    except InvalidRequestError:
        return
    assert settings.sources[name].startswith("flag")


# ── where files lie ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_everything_lies_under_the_home_that_is_set(tmp_path: Path) -> None:
    paths = find_paths({"AIAGENTCHAT_HOME": str(tmp_path)})
    assert paths.config_file == tmp_path / "config.toml"
    every = [getattr(paths, name) for name, kind in vars(Paths).items() if isinstance(kind, property)]
    assert every
    assert [path for path in every if path != paths.socket and not path.is_relative_to(tmp_path)] == []


def test_a_relative_home_means_the_same_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = find_paths({"AIAGENTCHAT_HOME": "home"})
    monkeypatch.chdir("/")
    assert paths.data_dir == tmp_path / "home"


def test_a_tilde_in_the_home_is_the_user_s_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_paths({"AIAGENTCHAT_HOME": "~/chat"}).data_dir == tmp_path / "chat"


def test_without_a_home_the_platform_s_convention_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for env in ({}, {"AIAGENTCHAT_HOME": ""}):
        paths = find_paths(env)
        assert paths.config_dir.is_relative_to(tmp_path)
        assert paths.data_dir.is_relative_to(tmp_path)
        assert "aiagentchat" in paths.config_dir.parts
        assert "aiagentchat" in paths.data_dir.parts


def test_the_socket_lies_in_the_home_where_its_path_fits() -> None:
    home = Path("/short")
    assert Paths(home, home).socket == home / "cchat.sock"


@pytest.mark.parametrize("letter", ["a", "ü"])
def test_every_home_has_a_socket_of_its_own_whose_path_the_platform_takes(letter: str) -> None:
    homes = [Path("/", letter * length) for length in range(1, 200)]
    sockets = [Paths(home, home).socket for home in homes]
    assert max(len(os.fsencode(path)) for path in sockets) <= 103
    assert len(set(sockets)) == len(homes)


# ── who can read the secret ones ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def _permissive_umask() -> Any:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_permissive_umask")
def test_a_private_file_is_its_owner_s_alone_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "credentials" / "operator"
    write_private(path, "s3cret\n")
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert read_private(path) == "s3cret"


def test_a_private_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, "old")
    path.chmod(0o644)
    write_private(path, "new")
    assert (read_private(path), mode(path)) == ("new", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_in_the_place_of_a_private_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.write_text("theirs")
    path = tmp_path / "secret"
    path.symlink_to(others)
    write_private(path, "ours")
    assert (path.is_symlink(), path.read_text(), others.read_text()) == (False, "ours", "theirs")


def test_a_link_to_a_secret_that_others_reach_is_refused(tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.write_text("theirs")
    others.chmod(0o644)
    (tmp_path / "secret").symlink_to(others)
    with pytest.raises(InvalidRequestError, match="can be read by others"):
        read_private(tmp_path / "secret")


def test_a_write_that_fails_leaves_the_old_secret_and_no_trace_of_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    write_private(path, "old")

    def full_disk(_: int) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full_disk)
        with pytest.raises(OSError, match="no space left"):
            write_private(path, "new")
    assert read_private(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_secret_is_none(tmp_path: Path) -> None:
    assert read_private(tmp_path / "nothing") is None


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o602, 0o610, 0o666])
def test_a_secret_that_others_reach_is_refused_with_the_remedy(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, "s3cret")
    path.chmod(bits)
    with pytest.raises(InvalidRequestError) as caught:
        read_private(path)
    assert caught.value.hint == f"chmod 600 {path}"
    assert "s3cret" not in str(caught.value)


@pytest.mark.usefixtures("_permissive_umask")
def test_a_private_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    ensure_private_dir(tmp_path / "a" / "b")
    assert mode(tmp_path / "a" / "b") == 0o700


def test_another_user_s_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(InvalidRequestError, match="belongs to another user"):
        ensure_private_dir(tmp_path)
