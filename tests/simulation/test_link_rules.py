"""What the judge of links allows, and what it does not."""

from __future__ import annotations

from kvstore.node.peer_messages import ForwardSlotReply
from kvstore.whole.link_rules import ValueOrder

FIRST, SECOND, THIRD, FOURTH = (ForwardSlotReply(number, False) for number in range(4))


def sent(order: ValueOrder, *messages: ForwardSlotReply) -> None:
    for message in messages:
        order.sends(message)


def test_values_arrive_in_their_order() -> None:
    order = ValueOrder()
    sent(order, FIRST, SECOND)
    assert order.arrives(FIRST) == order.arrives(SECOND) == ""


def test_one_that_overtakes_another_is_wrong() -> None:
    order = ValueOrder()
    sent(order, FIRST, SECOND)
    assert "some before it have not" in order.arrives(SECOND)


def test_after_a_gap_of_which_the_sender_was_told_comes_what_was_sent_since() -> None:
    order = ValueOrder()
    sent(order, FIRST, SECOND, THIRD)
    assert order.arrives(FIRST) == ""
    order.resumes()
    sent(order, SECOND, FOURTH)
    assert order.arrives(SECOND) == order.arrives(FOURTH) == ""


def test_after_a_gap_the_one_that_was_to_go_when_it_was_told_is_lost_too() -> None:
    order = ValueOrder()
    sent(order, FIRST, SECOND)
    order.resumes()
    assert order.arrives(SECOND) != ""


def test_of_values_that_are_alike_any_may_have_arrived() -> None:
    order = ValueOrder()
    sent(order, FIRST)
    order.resumes()
    sent(order, FIRST, SECOND)
    assert order.arrives(FIRST) == ""  # the first one, or the second
    assert order.arrives(FIRST) == ""
    assert order.arrives(SECOND) == ""
    other = ValueOrder()
    sent(other, FIRST)
    other.resumes()
    sent(other, FIRST, SECOND)
    assert other.arrives(FIRST) == other.arrives(SECOND) == ""


def test_nothing_arrives_that_was_not_sent_and_nothing_twice() -> None:
    order = ValueOrder()
    sent(order, FIRST)
    assert "was not sent" in order.arrives(SECOND)
    assert order.arrives(FIRST) == ""
    assert "not again" in order.arrives(FIRST)


def test_of_a_long_run_the_beginning_is_forgotten() -> None:
    order = ValueOrder()
    messages = [ForwardSlotReply(number, False) for number in range(5_000)]
    for message in messages:
        order.sends(message)
        assert order.arrives(message) == ""
    sent(order, FIRST, SECOND)
    order.resumes()
    sent(order, THIRD)
    assert order.arrives(THIRD) == ""
