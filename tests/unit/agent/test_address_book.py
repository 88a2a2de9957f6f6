import ipaddress
import os

import pytest

from fedge_agent.address_book import AddressBook
from fedge_agent.kernel.endpoints import Resolved, encoded
from fedge_agent.kernel.text_files import publish_text
from fedge_transport.errors import AddressUnknownError

V4, OTHER, V6 = (ipaddress.ip_address(text) for text in ("192.0.2.1", "192.0.2.2", "2001:db8::1"))


class Time:
    """CLOCK_BOOTTIME and the monotonic clock of a test."""

    def __init__(self):
        self.now_s = 1000

    def __call__(self):
        return self.now_s


@pytest.fixture
def time():
    return Time()


class Refresher:
    """What happens while the book waits: each pause lets two seconds pass, and takes the next step."""

    def __init__(self, time):
        self._time = time
        self.steps = []

    async def __call__(self, _):
        self._time.now_s += 2
        if self.steps:
            self.steps.pop(0)()


@pytest.fixture
def refresher(time):
    return Refresher(time)


@pytest.fixture
def book_of(tmp_path, time, refresher):
    def make(uid, request="wanted"):
        path = tmp_path / "endpoints"
        return AddressBook(path, tmp_path / request, owner_uid=uid, boot_s=time, clock=time, pause=refresher)

    return make


@pytest.fixture
def book(book_of):
    return book_of(os.geteuid())


@pytest.fixture
def publish(tmp_path):
    def write(*addresses, fresh_until_s=2000, until_s=5000):
        listed = tuple((address, until_s) for address in addresses)
        found = [Resolved("mq.example", 8883, "tcp", listed, fresh_until_s)]
        publish_text(tmp_path / "endpoints", encoded(found))

    return write


async def test_fresh_addresses_are_given_at_once_with_both_families_by_turns(book, publish, tmp_path):
    publish(V4, OTHER, V6)
    assert await book.find("mq.example", 8883) == ("2001:db8::1", "192.0.2.1", "192.0.2.2")
    assert not (tmp_path / "wanted").exists()


async def test_an_address_needs_no_file(book):
    assert await book.find("192.0.2.9", 8883) == ("192.0.2.9",)
    assert book.known("2001:db8::9", 443) == ("2001:db8::9",)


async def test_another_port_of_the_same_name_is_not_allowed(book, publish):
    publish(V4)
    with pytest.raises(AddressUnknownError, match=r"no address of mq\.example is allowed: waiting for the refresher"):
        await book.find("mq.example", 443)


async def test_a_missing_name_is_asked_for_and_taken_when_it_comes(book, publish, refresher, tmp_path):
    def come():
        assert (tmp_path / "wanted").exists()
        publish(V4)

    refresher.steps.append(come)
    assert await book.find("mq.example", 8883) == ("192.0.2.1",)


async def test_an_expired_address_is_never_given(book, publish):
    publish(V4, until_s=1000, fresh_until_s=900)
    with pytest.raises(AddressUnknownError):
        await book.find("mq.example", 8883)
    with pytest.raises(AddressUnknownError):
        book.known("mq.example", 8883)


async def test_an_answer_whose_time_is_over_is_asked_for_again_but_serves_meanwhile(book, publish, tmp_path):
    publish(V4, fresh_until_s=1000)
    assert await book.find("mq.example", 8883) == ("192.0.2.1",)
    assert (tmp_path / "wanted").exists()
    publish(OTHER, fresh_until_s=3000)
    assert await book.find("mq.example", 8883) == ("192.0.2.2",)


async def test_when_nobody_answers_others_come_first_and_a_refresh_is_asked_for(book, publish, tmp_path):
    publish(V4, OTHER)
    assert await book.find("mq.example", 8883) == ("192.0.2.1", "192.0.2.2")
    book.unreachable("mq.example", 8883)
    assert (tmp_path / "wanted").exists()
    assert await book.find("mq.example", 8883) == ("192.0.2.2", "192.0.2.1")


def test_a_refresh_is_asked_for_at_most_twice_a_minute(book, tmp_path, time):
    asked = 0
    for _ in range(120):
        book.unreachable("mq.example", 8883)
        time.now_s += 1
        if (tmp_path / "wanted").exists():
            asked += 1
            (tmp_path / "wanted").unlink()
    assert asked == 4


async def test_a_file_that_is_not_roots_is_not_believed(book_of, publish):
    publish(V4)
    book = book_of(os.geteuid() + 1)
    with pytest.raises(AddressUnknownError):
        await book.find("mq.example", 8883)


def test_a_refresh_that_cannot_be_asked_for_is_told(book_of, caplog):
    book = book_of(0, "none/wanted")
    book.ask_for_refresh()
    assert "no refresh can be asked for" in caplog.text
