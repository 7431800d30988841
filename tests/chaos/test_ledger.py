"""The ledger finds what is wrong, and nothing else."""

from tests.chaos.ledger import HandOut, Ledger, Room, Said, Stored

ONE, TWO = Stored("$1", "ann", "ann 1"), Stored("$2", "ann", "ann 2")
BOTH = Room("the room of bob", frozenset({"bob"}), (ONE, TWO))


def hand(ledger: Ledger, *event_ids: str, agent: str = "bob", asked_at: float = 1.0, request: int = 1) -> None:
    for event_id in event_ids:
        ledger.note_handed(HandOut(agent, event_id, asked_at, asked_at + 0.1, request))
    ledger.note_tried(agent, event_ids)


def well_kept() -> Ledger:
    ledger = Ledger()
    ledger.stored["ann 1"].add("$1")
    ledger.stored["ann 2"].add("$2")
    hand(ledger, "$1", "$2")
    ledger.note_acknowledged("bob", ["$1", "$2"], 2.0)
    return ledger


def figures(ledger: Ledger, *rooms: Room) -> tuple[int, int, int]:
    verdict = ledger.settle(rooms or [BOTH])
    return len(verdict.lost), len(verdict.doubled), len(verdict.reordered)


def test_nothing_is_wrong_when_each_message_was_handed_out_once_in_order() -> None:
    verdict = well_kept().settle([BOTH])
    assert verdict.is_clean
    assert str(verdict) == "nothing is wrong"


def test_a_stored_message_that_was_never_handed_out_is_lost() -> None:
    ledger = Ledger()
    hand(ledger, "$1")
    verdict = ledger.settle([BOTH])
    assert not verdict.is_clean
    assert "ann 2 ($2) in the room of bob, for bob" in str(verdict)


def test_a_message_whose_only_reader_died_before_it_could_acknowledge_is_lost() -> None:
    ledger = Ledger()
    hand(ledger, "$1")
    ledger.note_handed(HandOut("bob", "$2", 1.0, 1.1, request=1))
    assert ledger.settle([BOTH]).lost == ("ann 2 ($2) in the room of bob, for bob",)


def test_a_message_whose_sender_was_not_told_counts_as_soon_as_it_is_there() -> None:
    ledger = Ledger(refused={"ann 1": "500", "ann 2": "500"})
    assert figures(ledger) == (2, 0, 0)


def test_a_message_that_was_told_to_be_stored_and_is_not_there_is_lost() -> None:
    ledger = well_kept()
    ledger.stored["ann 3"].add("$3")
    assert figures(ledger) == (1, 0, 0)


def test_a_broadcast_is_for_everybody_but_its_sender() -> None:
    ledger, common = Ledger(), Room("all", frozenset({"ann", "bob", "eve"}), (ONE,))
    hand(ledger, "$1", agent="bob")
    verdict = ledger.settle([common])
    assert verdict.lost == ("ann 1 ($1) in all, for eve",)


def test_two_events_of_one_key_are_doubled_whether_the_sender_was_told_or_not() -> None:
    ledger = well_kept()
    hand(ledger, "$1b")
    again = Room(BOTH.name, BOTH.readers, (ONE, TWO, Stored("$1b", "ann", "ann 1")))
    assert figures(ledger, again) == (0, 1, 0)


def test_a_key_that_was_told_two_events_is_doubled() -> None:
    ledger = well_kept()
    ledger.stored["ann 1"].add("$2")
    assert figures(ledger) == (0, 1, 0)


def test_what_is_handed_out_again_before_its_acknowledgement_was_answered_is_not_doubled() -> None:
    ledger = well_kept()
    hand(ledger, "$1", asked_at=1.9, request=2)
    hand(ledger, "$1", asked_at=5.0, agent="eve", request=3)
    assert figures(ledger) == (0, 0, 0)


def test_what_is_handed_out_on_a_request_from_after_that_is_doubled() -> None:
    ledger = well_kept()
    hand(ledger, "$1", asked_at=2.5, request=2)
    ledger.note_acknowledged("bob", ["$1"], 3.0)  # the first answer counts
    assert figures(ledger) == (0, 1, 0)


def test_a_message_handed_out_before_an_older_one_of_its_sender_is_reordered() -> None:
    ledger = Ledger()
    hand(ledger, "$2", "$1")
    verdict = ledger.settle([BOTH])
    assert verdict.reordered == ("ann 1 in the room of bob was handed to bob after ann 2, at 1.1 s",)


def test_what_is_handed_out_again_by_another_request_may_come_after_what_was_handed_out_since() -> None:
    ledger = Ledger()
    hand(ledger, "$1", "$2")
    hand(ledger, "$1", "$2", request=2)
    assert figures(ledger) == (0, 0, 0)


def test_what_one_request_hands_out_again_is_in_order_as_well() -> None:
    ledger = Ledger()
    hand(ledger, "$1", "$2")
    hand(ledger, "$2", "$1", request=2)
    assert figures(ledger) == (0, 0, 1)


def test_messages_of_two_senders_have_no_order_between_them() -> None:
    ledger, room = Ledger(), Room("of bob", frozenset({"bob"}), (ONE, Stored("$e", "eve", "eve 1")))
    hand(ledger, "$e", "$1")
    assert figures(ledger, room) == (0, 0, 0)


def test_each_reader_of_a_room_has_an_order_of_its_own() -> None:
    ledger, common = Ledger(), Room("all", frozenset({"bob", "eve"}), (ONE, TWO))
    hand(ledger, "$1", "$2", agent="bob")
    hand(ledger, "$2", "$1", agent="eve")
    assert figures(ledger, common) == (0, 0, 1)


def test_an_inbox_that_holds_what_was_acknowledged_is_untrue() -> None:
    verdict = well_kept().settle([BOTH], [Said("bob", ["$1"], {})])
    assert verdict.untrue == ("$1, acknowledged, stands in the inbox of bob",)
    assert not verdict.is_clean


def test_who_is_told_that_nobody_has_read_what_was_acknowledged_is_told_what_is_untrue() -> None:
    verdict = well_kept().settle([BOTH], [Said("ann", [], {"$1": frozenset(), "$2": frozenset({"bob"})})])
    assert verdict.untrue == ("$1 is told to be unread by bob, who acknowledged it",)


def test_who_is_told_that_somebody_has_read_what_was_never_acknowledged_is_told_what_is_untrue() -> None:
    ledger = Ledger()
    hand(ledger, "$1")  # without an answer to its acknowledgement: both are right
    said = [Said("ann", [], {"$1": frozenset({"bob"}), "$2": frozenset({"bob"})})]
    assert ledger.settle([BOTH], said).untrue == ("$2 is told to be read by bob, who never acknowledged it",)
    assert ledger.settle([BOTH], [Said("ann", ["$1"], {"$1": frozenset()})]).untrue == ()
