"""The credit of a link, where answers to drains come late, twice, or not at all."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cloudq_azure.pulls import Credit

COUNTS = 1 << 32


class Link:
    """The state of the SDK's link, with a peer that answers at once; answers are on their way.

    `sent` and `credit` are the peer's own; `way` has what it has sent and we have not read.
    """

    def __init__(self, start: int = 0) -> None:
        self.delivery_count, self.current_link_credit = start, 0
        self._incoming_flow: Any = None
        self.sent, self.credit = start, 0
        self.way: list[list[Any] | None] = []
        self.waiting = 0

    def flow(self, *, link_credit: int, drain: bool = False) -> None:
        self.current_link_credit = link_credit
        self.credit = (self.delivery_count + link_credit - self.sent) % COUNTS
        self.pump()
        if drain:
            self.sent = (self.sent + self.credit) % COUNTS
            self.credit = 0
            self.way.append([None, None, None, None, None, self.sent, 0, None, True])

    def pump(self) -> None:
        while self.credit and self.waiting:
            self.waiting -= 1
            self.credit -= 1
            self.sent = (self.sent + 1) % COUNTS
            self.way.append(None)

    def read(self) -> bool:
        """Read what is next on its way; True if it is a message."""
        frame = self.way.pop(0)
        if frame is not None:
            self._incoming_flow(frame)
            return False
        self.current_link_credit -= 1
        self.delivery_count += 1
        return True


def pulled(link: Link, count: int) -> int:
    """Receive as `pulls` does: until a first message, then until all credit is over."""
    credit, got = Credit.of(link), 0
    credit.grant(count)
    while not got and link.way:
        got += link.read()
    if link.current_link_credit > 0:
        credit.drain()
        while not credit.is_over:
            got += link.read()
    return got


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 7)), max_size=12),
    st.sampled_from((0, COUNTS - 3)),
)
def test_no_message_is_left_on_its_way(pulls: list[tuple[int, int]], start: int) -> None:
    link, left = Link(start), 0
    for count, fresh in pulls:
        link.waiting += fresh
        left += fresh
        got = pulled(link, count)
        assert got == min(count, left)
        left -= got
        assert left == link.waiting
        assert None not in link.way


def test_a_link_has_one_credit() -> None:
    link = Link()
    assert Credit.of(link) is Credit.of(link)


def test_an_answer_that_never_came_is_not_missed() -> None:
    link = Link()
    link.waiting = 9
    assert pulled(link, 2) == 2
    link.way.clear()  # the peer has not answered the drain, since no credit was left
    assert pulled(link, 4) == 4
    link.way.clear()
    assert pulled(link, 9) == 3
