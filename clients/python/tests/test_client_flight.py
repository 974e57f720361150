"""The numbering of a stream's frames, and the pauses between its connections."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mataserver_client import Reconnect
from mataserver_client.in_flight import InFlightFrames


def test_an_answer_makes_room_for_all_before_it():
    """An answer settles its frame and those that it overtook; a resumed session sends one first."""
    in_flight = InFlightFrames(3, fresh=True)
    for _ in range(3):
        assert not in_flight.is_full
        in_flight.note_sent(b"frame")
    assert in_flight.is_full
    assert in_flight.note_answer(1) == 1
    assert in_flight.pending == 1
    in_flight.drop_unanswered()
    assert in_flight.is_full
    assert in_flight.note_answer(9) == 2
    assert not in_flight.pending


def test_a_frame_counted_late_moves_the_numbers_on():
    """An answer to a frame beyond those sent means that an earlier one was counted after all."""
    in_flight = InFlightFrames(1, fresh=False)
    in_flight.note_sent(b"frame")
    assert in_flight.note_answer(5) == 0
    in_flight.note_sent(b"frame")
    assert in_flight.note_answer(7) == 1
    in_flight.note_sent(b"frame")
    assert in_flight.note_answer(8) == 2


def test_delays_double_up_to_a_limit():
    """The pause between tries grows, and stops growing."""
    policy = Reconnect(first_delay=1.0, longest_delay=5.0)
    assert [policy.delay(attempt) for attempt in (0, 1, 2, 3, 10_000)] == [1.0, 2.0, 4.0, 5.0, 5.0]


@given(
    st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.booleans()), max_size=8),
    st.integers(0, 50),
)
def test_numbers_survive_drops_and_lost_connections(rounds, counted_before):
    """Whatever is dropped or lost, an answer names the frame it belongs to, and the end is seen."""
    in_flight = InFlightFrames(None, fresh=counted_before == 0)
    server_count, sent = counted_before, 0
    on_server = {}

    def receive(index):
        nonlocal server_count
        on_server[server_count] = index
        server_count += 1

    for burst, breaks, arrives in rounds:
        for _ in range(1 if in_flight.is_full or in_flight._offset is None else burst):
            in_flight.note_sent(b"frame")
            if arrives or not breaks:
                receive(sent)
            sent += 1
        if breaks:
            in_flight.drop_unanswered()
            receive(sent - 1)  # the newest is sent again, on its own
        answered = server_count - 1
        assert in_flight.note_answer(answered) == on_server[answered] == sent - 1
        assert not in_flight.pending
