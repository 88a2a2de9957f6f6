"""JSON-RPC over HTTP to one or more nodes of one chain.

URLs hold access tokens, so they appear in no log line and no exception; endpoints are spoken of by their position.
"""

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Self

import httpx

from fedge_coordinator.settlement.errors import RpcError, RpcUnavailableError, WrongChainError

MAX_ANSWER_BYTES = 16 << 20
_RETRIED_STATUS = frozenset({429, 500, 502, 503, 504})
_log = logging.getLogger(__name__)
for _name in ("httpx", "httpcore"):  # both log addresses: httpx every request's URL at INFO
    logging.getLogger(_name).setLevel(logging.WARNING)


class _EndpointError(Exception):
    """One endpoint failed in a way that another try or another endpoint may cure."""


class JsonRpc:
    """A client that tries its endpoints in order and uses none before its chain id was compared.

    Args:
        urls: endpoints in order of preference.
        chain_id: what `eth_chainId` must answer; None takes what the first endpoint says.
        timeout_s: for one request.
        rounds: how often the whole list is tried before `RpcUnavailableError`.
        backoff_s: pause before the second round; doubles each round, with up to as much jitter again.
        client: injected in tests.
        sleep: injected in tests.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        chain_id: int | None = None,
        timeout_s: float = 10.0,
        rounds: int = 4,
        backoff_s: float = 0.25,
        client: httpx.AsyncClient | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not urls:
            raise ValueError("no RPC endpoint given")
        self._urls = tuple(urls)
        self._chain_id = chain_id
        self._rounds = rounds
        self._backoff_s = backoff_s
        self._client = client or httpx.AsyncClient(timeout=timeout_s, follow_redirects=False)
        self._sleep = sleep
        self._ids = count(1)
        self._checked: set[int] = set()
        self._jitter = random.Random()  # noqa: S311 - spreads retries, guards nothing

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def chain_id(self) -> int:
        """Return the chain's id.

        Raises:
            RpcUnavailableError: when no endpoint answers.
            WrongChainError: when an endpoint serves another chain.
        """
        await self.call("eth_chainId")
        if self._chain_id is None:  # call() always sets it
            raise RpcUnavailableError("no endpoint told its chain id")
        return self._chain_id

    async def call(self, method: str, *params: object) -> Any:
        """Return the result of one request, untyped as JSON is.

        Raises:
            RpcError: the node answered with an error object; not retried.
            RpcUnavailableError: when no endpoint gave a well-formed answer.
            WrongChainError: when an endpoint serves another chain.
        """
        problem = "never tried"
        for attempt in range(self._rounds):
            if attempt:
                pause_s = self._backoff_s * 2 ** (attempt - 1)
                await self._sleep(pause_s * (1 + self._jitter.random()))
            for index in range(len(self._urls)):
                try:
                    await self._check_chain(index)
                    return await self._request(index, method, params)
                except _EndpointError as error:
                    problem = f"endpoint {index}: {error}"
                    _log.debug("%s at %s", method, problem)
        raise RpcUnavailableError(f"{method}: {len(self._urls)} endpoint(s), {self._rounds} rounds; last {problem}")

    async def _check_chain(self, index: int) -> None:
        if index in self._checked:
            return
        found = quantity(await self._request(index, "eth_chainId", ()))
        if self._chain_id is None:
            self._chain_id = found
        if found != self._chain_id:
            raise WrongChainError(f"endpoint {index} serves chain {found}, configured is {self._chain_id}")
        self._checked.add(index)

    async def _request(self, index: int, method: str, params: Sequence[object]) -> Any:
        request_id = next(self._ids)
        body = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": list(params)}
        answer = await self._post(index, body)
        if not isinstance(answer, dict) or answer.get("id") != request_id:
            raise _EndpointError("the answer carries another id")
        error = answer.get("error")
        if error is not None:
            raise _rpc_error(method, error)
        if "result" not in answer:
            raise _EndpointError("the answer has neither result nor error")
        return answer["result"]

    async def _post(self, index: int, body: dict[str, object]) -> Any:
        content = bytearray()
        try:
            async with self._client.stream("POST", self._urls[index], json=body) as response:
                if response.status_code in _RETRIED_STATUS:
                    raise _EndpointError(f"HTTP {response.status_code}")
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_ANSWER_BYTES:
                        raise _EndpointError(f"answer longer than {MAX_ANSWER_BYTES} bytes")
                status = response.status_code
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _EndpointError(type(error).__name__) from None  # its text may hold the URL
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise _EndpointError(f"HTTP {status} without JSON") from None


def quantity(value: object) -> int:
    """Read a JSON-RPC quantity ("0x1f").

    Raises:
        RpcUnavailableError: when the node sent something else.
    """
    if not isinstance(value, str) or not value.startswith("0x"):
        raise RpcUnavailableError(f"the node sent {type(value).__name__} where a quantity was due")
    try:
        return int(value, 16)
    except ValueError:
        raise RpcUnavailableError("the node sent a malformed quantity") from None


def data_bytes(value: object) -> bytes:
    """Read JSON-RPC data ("0xab12").

    Raises:
        RpcUnavailableError: when the node sent something else.
    """
    if not isinstance(value, str) or not value.startswith("0x"):
        raise RpcUnavailableError(f"the node sent {type(value).__name__} where data was due")
    try:
        return bytes.fromhex(value[2:])
    except ValueError:
        raise RpcUnavailableError("the node sent malformed data") from None


def hexed(value: bytes | int) -> str:
    """Write bytes or a quantity as JSON-RPC wants it."""
    return hex(value) if isinstance(value, int) else "0x" + value.hex()


def _rpc_error(method: str, error: object) -> RpcError:
    if not isinstance(error, dict):
        return RpcError(method, 0, "malformed error object", b"")
    code, message, data = error.get("code"), error.get("message"), error.get("data")
    if isinstance(data, dict):  # some nodes nest the revert data
        data = data.get("data") or data.get("result")
    try:
        revert = data_bytes(data)
    except RpcUnavailableError:
        revert = b""
    return RpcError(method, code if isinstance(code, int) else 0, str(message)[:200], revert)
