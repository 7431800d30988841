"""Which user and alias belongs to which agent, and back; in step with the registration's namespaces."""

import re
import string

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from aiagentchat.homeserver.embedded import EmbeddedConfig
from aiagentchat.homeserver.render import render_registration_yaml
from aiagentchat.model import AgentName
from aiagentchat.space.names import Naming, broadcast_alias

SERVERS = ("example.org", "localhost", "chat.example.org:8448", "[2001:db8::1]:8448", "exampleXorg")
FIRST = string.ascii_lowercase + string.digits
NAMES = st.builds(str.__add__, st.sampled_from(FIRST), st.text(FIRST + "._-", max_size=62)).map(AgentName)
NAMINGS = st.builds(Naming, st.sampled_from(SERVERS), st.sampled_from(("aiagentchat", "aiagentchat.second")))


@given(NAMINGS, NAMES)
@example(Naming("example.org"), AgentName("a"))
@example(Naming("example.org"), AgentName("a" * 63))
@example(Naming("example.org"), AgentName("aiagentchat-a"))
def test_the_user_of_an_agent_leads_back_to_it_and_to_no_other_naming(naming: Naming, agent: AgentName) -> None:
    user = naming.user(agent)
    assert naming.agent_of(user) == agent
    others = {Naming(server, prefix) for server in SERVERS for prefix in ("aiagentchat", "aiagentchat.second")}
    assert [other for other in others - {naming} if other.agent_of(user) is not None] == []


@given(NAMINGS, NAMES, NAMES)
def test_two_agents_never_share_a_user_or_an_alias_nor_is_one_the_broadcast_room(
    naming: Naming, one: AgentName, two: AgentName
) -> None:
    assert (naming.user(one) == naming.user(two)) == (naming.alias(one) == naming.alias(two)) == (one == two)
    assert naming.alias(one) != broadcast_alias(f"#x:{naming.server_name}")
    assert naming.user(one) != naming.daemon


@pytest.mark.parametrize(
    "user_id",
    [
        "",
        "@aiagentchat:example.org",
        "@aiagentchat-:example.org",
        "@aiagentchat-_broadcast:example.org",
        "@aiagentchat-Claude:example.org",
        "@aiagentchat-claude:example.org.evil.test",
        "@aiagentchat-claude:example.orgx",
        "@aiagentchat-claude:evil.test:example.org",
        "@aiagentchat-claude\n:example.org",
        "@aiagentchat-" + "a" * 64 + ":example.org",
        "@aiagentchat.second-claude:example.org",
        "@alice:example.org",
        "aiagentchat-claude:example.org",
        "#aiagentchat-claude:example.org",
        "@@aiagentchat-claude:example.org",
        "@aiagentchat-:example.org:example.org",
    ],
)
def test_whoever_else_is_no_agent(user_id: str) -> None:
    assert Naming("example.org").agent_of(user_id) is None


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_an_agents_user_only_if_it_is_exactly_what_its_name_derives_to(text: str) -> None:
    naming = Naming("example.org")
    for user_id in (text, f"@aiagentchat-{text}", f"@aiagentchat-{text}:example.org"):
        agent = naming.agent_of(user_id)
        assert agent is None or naming.user(agent) == user_id


@given(st.sampled_from(SERVERS), NAMES)
def test_every_name_is_within_the_registrations_namespaces(server: str, agent: AgentName) -> None:
    config = EmbeddedConfig(server, 1, 2, "s1", "s2", "s3", "s4", "s5")
    namespaces = yaml.safe_load(render_registration_yaml(config))["namespaces"]
    naming = Naming(server)
    assert re.match(namespaces["users"][0]["regex"], naming.user(agent))
    for alias in (naming.alias(agent), broadcast_alias(f"#x:{naming.server_name}"), f"#aiagentchat:{server}"):
        assert re.match(namespaces["aliases"][0]["regex"], alias)
