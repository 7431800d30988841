"""Who is online: held and timed sessions, alone and together."""

from dataclasses import dataclass
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aiagentchat.agents.sessions import Sessions
from aiagentchat.model import AgentName

A, B = AgentName("a"), AgentName("b")
TTL_S = 100.0


@dataclass
class Clock:
    now_s: float = 0.0

    def ms(self) -> int:
        return int(self.now_s * 1000)


def sessions_at(clock: Clock) -> Sessions:
    return Sessions(ttl_s=TTL_S, server_now_ms=clock.ms, clock=lambda: clock.now_s)


def test_a_held_session_lasts_until_it_is_released() -> None:
    sessions = sessions_at(Clock())
    ended: list[str] = []
    first = sessions.hold(A, lambda: ended.append(A))
    second = sessions.hold(A, lambda: ended.append(A))
    sessions.release(A, first)
    assert sessions.online() == {A}
    sessions.release(A, second)
    sessions.release(A, second)  # once more is no fault
    assert (sessions.online(), ended) == (frozenset(), [])


def test_a_timed_session_lasts_until_silence_and_says_when_to_look() -> None:
    clock = Clock()
    sessions = sessions_at(clock)
    assert sessions.expire() is None
    sessions.renew(A)
    clock.now_s = 60
    sessions.renew(B)
    assert sessions.expire() == 40
    sessions.renew(A)
    clock.now_s = 159.9
    assert sessions.online() == {A, B}
    clock.now_s = 160
    assert (sessions.expire(), sessions.online()) == (None, frozenset())


def test_the_present_time_online_began_with_the_first_claim() -> None:
    clock = Clock(5)
    sessions = sessions_at(clock)
    held = sessions.hold(A, lambda: None)
    clock.now_s = 7
    sessions.renew(A)
    sessions.release(A, held)
    assert (sessions.began_ms(A), sessions.last_seen_ms(A)) == (5000, 7000)
    sessions.end(A)
    clock.now_s = 9
    sessions.hold(A, lambda: None)
    assert sessions.began_ms(A) == 9000


def test_of_an_agent_that_is_no_more_nothing_is_known() -> None:
    sessions = sessions_at(Clock(7))
    sessions.renew(A)
    sessions.renew(B)
    sessions.end(A)
    sessions.forget(A)
    sessions.forget(A)
    assert (sessions.last_seen_ms(A), sessions.last_seen_ms(B)) == (None, 7000)


def test_who_ends_an_agents_sessions_tells_whoever_holds_one() -> None:
    sessions = sessions_at(Clock())
    ended: list[str] = []
    for each in (A, B, A):
        sessions.hold(each, partial(ended.append, each))
    sessions.end(A)
    assert (ended, sorted(sessions.online())) == ([A, A], [B])
    sessions.end_all()
    assert (ended, sessions.online()) == ([A, A, B], frozenset())


class ClaimsOfTwo(RuleBasedStateMachine):
    """Whatever is opened, renewed, released, ended and left alone: online is who has a claim, and `changed` says so."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.sessions = sessions_at(self.clock)
        self.held: dict[AgentName, list[int]] = {A: [], B: []}
        self.until: dict[AgentName, float] = {A: 0.0, B: 0.0}
        self.published: frozenset[AgentName] = frozenset()

    agents = st.sampled_from([A, B])

    @rule(agent=agents)
    def hold(self, agent: AgentName) -> None:
        self.held[agent].append(self.sessions.hold(agent, lambda: None))

    @rule(agent=agents)
    def release(self, agent: AgentName) -> None:
        if self.held[agent]:
            self.sessions.release(agent, self.held[agent].pop(0))

    @rule(agent=agents)
    def renew(self, agent: AgentName) -> None:
        self.sessions.renew(agent)
        self.until[agent] = self.clock.now_s + TTL_S

    @rule(agent=agents)
    def end(self, agent: AgentName) -> None:
        self.sessions.end(agent)
        self.held[agent].clear()
        self.until[agent] = 0.0

    @rule(passes_s=st.sampled_from([1.0, TTL_S / 2, TTL_S]))
    def wait(self, passes_s: float) -> None:
        self.clock.now_s += passes_s
        self.sessions.expire()

    @invariant()
    def online_is_who_has_a_claim(self) -> None:
        expected = {agent for agent in (A, B) if self.held[agent] or self.until[agent] > self.clock.now_s}
        assert self.sessions.online() == expected
        if self.sessions.online() != self.published:
            assert self.sessions.changed.is_set()
            self.published = self.sessions.online()
            self.sessions.changed.clear()


TestClaimsOfTwo = ClaimsOfTwo.TestCase
TestClaimsOfTwo.settings = settings(max_examples=100, stateful_step_count=30)
