"""The JSON-RPC client against a real HTTP server that misbehaves."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fedge_coordinator.settlement.errors import RpcError, RpcUnavailableError, WrongChainError
from fedge_coordinator.settlement.rpc import MAX_ANSWER_BYTES, JsonRpc, data_bytes, hexed, quantity

SECRET = "token-in-the-path"  # noqa: S105 - what must not show up in logs
Answer = Callable[[dict[str, Any]], tuple[int, bytes]]


class Node:
    """Answers each request by the next of `answers`, and well when they are used up."""

    def __init__(self, chain_id: int = 7) -> None:
        self.chain_id = chain_id
        self.answers: list[Answer] = []
        self.requests: list[dict[str, Any]] = []
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                node.requests.append(body)
                answer = node.answers.pop(0) if node.answers and body["method"] != "eth_chainId" else node.well
                status, content = answer(body)
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/{SECRET}"

    def well(self, body: dict[str, Any]) -> tuple[int, bytes]:
        result = hex(self.chain_id) if body["method"] == "eth_chainId" else "0x1"
        return 200, json.dumps({"jsonrpc": "2.0", "id": body["id"], "result": result}).encode()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def node() -> Iterator[Node]:
    server = Node()
    yield server
    server.stop()


@pytest.fixture
def spare() -> Iterator[Node]:
    server = Node()
    yield server
    server.stop()


class Sleeper:
    """Records pauses instead of making them."""

    def __init__(self) -> None:
        self.pauses_s: list[float] = []

    async def __call__(self, pause_s: float) -> None:
        self.pauses_s.append(pause_s)


def answer(**fields: object) -> Answer:
    return lambda body: (200, json.dumps({"jsonrpc": "2.0", "id": body["id"]} | fields).encode())


async def test_a_good_answer_is_returned_and_the_chain_is_checked_once(node: Node):
    async with JsonRpc([node.url], chain_id=7) as rpc:
        assert await rpc.call("eth_blockNumber") == "0x1"
        assert await rpc.call("eth_blockNumber", "a", 1) == "0x1"
        assert await rpc.chain_id() == 7
    assert [request["method"] for request in node.requests].count("eth_chainId") == 2
    assert node.requests[2]["params"] == ["a", 1]


@pytest.mark.parametrize(
    "bad",
    [
        lambda body: (503, b""),
        lambda body: (429, b"slow down"),
        lambda body: (200, b"<html>"),
        lambda body: (404, b"nothing here"),
        lambda body: (200, b'"text"'),
        lambda body: (200, json.dumps({"id": body["id"] + 1, "result": "0x2"}).encode()),
        lambda body: (200, json.dumps({"id": body["id"]}).encode()),
    ],
)
async def test_a_bad_answer_is_asked_for_again_after_a_pause(node: Node, bad: Answer):
    sleeper = Sleeper()
    node.answers = [bad, bad]
    async with JsonRpc([node.url], chain_id=7, backoff_s=0.5, sleep=sleeper) as rpc:
        assert await rpc.call("eth_blockNumber") == "0x1"
    assert len(sleeper.pauses_s) == 2
    assert 0.5 <= sleeper.pauses_s[0] <= 1.0
    assert 1.0 <= sleeper.pauses_s[1] <= 2.0


async def test_an_answer_without_end_is_cut_off(node: Node):
    node.answers = [lambda body: (200, b" " * (MAX_ANSWER_BYTES + 1))]
    async with JsonRpc([node.url], chain_id=7, rounds=1) as rpc:
        with pytest.raises(RpcUnavailableError, match=f"longer than {MAX_ANSWER_BYTES}"):
            await rpc.call("eth_getLogs")


async def test_the_next_endpoint_serves_when_the_first_is_down(node: Node, spare: Node):
    node.stop()
    async with JsonRpc([node.url, spare.url], chain_id=7) as rpc:
        assert await rpc.call("eth_blockNumber") == "0x1"
    node._server = spare._server  # the fixture stops it once more, harmlessly


async def test_an_endpoint_of_another_chain_is_never_used(node: Node, spare: Node):
    node.chain_id = 8
    async with JsonRpc([node.url, spare.url], chain_id=7) as rpc:
        with pytest.raises(WrongChainError, match="endpoint 0 serves chain 8, configured is 7"):
            await rpc.call("eth_sendRawTransaction", "0x00")
    assert [request["method"] for request in node.requests] == ["eth_chainId"]


async def test_a_nodes_error_is_not_retried_and_keeps_the_revert_data(node: Node):
    node.answers = [answer(error={"code": 3, "message": "execution reverted", "data": "0xdeadbeef"})]
    async with JsonRpc([node.url], chain_id=7) as rpc:
        with pytest.raises(RpcError) as refused:
            await rpc.call("eth_call")
    assert (refused.value.code, refused.value.data) == (3, b"\xde\xad\xbe\xef")
    assert len(node.requests) == 2


@pytest.mark.parametrize(
    ("error", "data"),
    [
        ("text", b""),
        ({"message": None}, b""),
        ({"code": 3, "message": "x", "data": {"data": "0x01"}}, b"\x01"),
        ({"code": 3, "message": "x", "data": "0xzz"}, b""),
        ({"code": 3, "message": "y" * 5000, "data": [1]}, b""),
    ],
)
async def test_malformed_error_objects_are_still_errors(node: Node, error: object, data: bytes):
    node.answers = [answer(error=error)]
    async with JsonRpc([node.url], chain_id=7) as rpc:
        with pytest.raises(RpcError) as refused:
            await rpc.call("eth_call")
    assert refused.value.data == data
    assert len(str(refused.value)) < 300


async def test_no_log_line_and_no_exception_holds_the_url(node: Node, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    node.answers = [lambda body: (503, b"")]
    async with JsonRpc([node.url, "http://127.0.0.1:1/" + SECRET, "ftp://x/" + SECRET], rounds=2, backoff_s=0) as rpc:
        await rpc.call("eth_blockNumber")
        node.stop()
        with pytest.raises(RpcUnavailableError) as refused:
            await rpc.call("eth_blockNumber")
    assert SECRET not in caplog.text
    assert "127.0.0.1" not in caplog.text
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None
    node._server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    node._thread = threading.Thread(target=node._server.serve_forever, daemon=True)
    node._thread.start()


@pytest.mark.parametrize("value", [None, 1, "1", "0x", "0xg", [], "0x-1z"])
def test_what_is_no_quantity_is_refused(value: object):
    with pytest.raises(RpcUnavailableError):
        quantity(value)


@pytest.mark.parametrize("value", [None, 1, "ab", "0xabc", "0xgg"])
def test_what_is_no_data_is_refused(value: object):
    with pytest.raises(RpcUnavailableError):
        data_bytes(value)


def test_bytes_and_numbers_are_written_as_the_protocol_wants():
    assert (hexed(b"\x00\xab"), hexed(0), hexed(255)) == ("0x00ab", "0x0", "0xff")
    assert (quantity("0xff"), data_bytes("0x00ab")) == (255, b"\x00\xab")


def test_a_client_without_endpoints_cannot_be_made():
    with pytest.raises(ValueError, match="no RPC endpoint"):
        JsonRpc([])


def test_a_hostile_nesting_is_an_error_and_no_crash_at_the_recursion_limit_of_the_coordinator():
    # in a process of its own: the oracle eth-account raises the limit of this one to where the C stack overflows
    script = (
        "import fedge_coordinator.settlement.chain, json, sys\n"
        "from fedge_coordinator.settlement.documents import RoundRecord, decode_document\n"
        "from fedge_coordinator.settlement.errors import DocumentError\n"
        "try:\n    json.loads('[' * 1000000)\nexcept RecursionError:\n    print('refused')\n"
        "try:\n    decode_document(RoundRecord, b'[' * 1000000)\nexcept DocumentError:\n    print('refused')\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["refused", "refused"]
