"""The server with the real runtime and really built models, over its real socket."""

import asyncio
import hashlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from fedge_agent import cli
from fedge_agent.inference import client
from fedge_agent.inference.models import Models
from fedge_agent.inference.refusals import Reason, RefusedRequestError
from fedge_agent.inference.routes import JSON, RAW
from fedge_agent.model_slot import ModelSlots, read_slot
from fedge_agent.training.interpreter import TrainableModel
from fedge_coordinator.modelkit.bundle import ModelBundle, build_bundle
from fedge_coordinator.modelkit.spec import parse_model_spec

ROWS = [[0.1 * n for n in range(12)], [1.0] * 12]
COMMAND = [sys.executable, "-c", "import sys; from fedge_agent.cli import main; sys.exit(main())"]


def a_bundle(seed: int = 1, width: int = 12) -> ModelBundle:
    layers = [{"dense": 16, "activation": "relu"}, {"dense": 3}]
    section = {"input": width, "layers": layers, "loss": "softmax-cross-entropy", "batchSize": 8, "seed": seed}
    return build_bundle(parse_model_spec(section))


def expected(bundle: ModelBundle, rows: list[list[float]] = ROWS):
    model = TrainableModel(bundle.graph)
    model.set_weights(np.frombuffer(bundle.weights, "<f4"))
    return model.infer(np.array(rows, np.float32))


@dataclass
class Server:
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def path(self) -> Path:
        return self.folder / "run-inference.sock"

    def lands(self, bundle: ModelBundle, *, job: str = "digits", round_: int = 1, graph: bytes | None = None) -> None:
        land(self.folder, bundle, job=job, round_=round_, graph=graph)

    def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, Any]:
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(str(self.path))
        connection.request(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        parsed = json.loads(content) if response.headers["Content-Type"] == JSON else content
        return response.status, parsed, response.headers

    def raw(self, data: bytes, *, end: bool = False) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(60)
            peer.connect(str(self.path))
            peer.sendall(data)
            if end:
                peer.shutdown(socket.SHUT_WR)
            received = b""
            while part := peer.recv(65536):
                received += part
            return received

    def children(self) -> list[int]:
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in task.read_text().split()]


def land(
    folder: Path, bundle: ModelBundle, *, job: str = "digits", round_: int = 1, graph: bytes | None = None
) -> None:
    blobs, files, refs = folder / "blobs", {}, []
    blobs.mkdir(exist_ok=True)
    for content in (graph or bundle.graph, bundle.weights):
        digest = hashlib.sha256(content).digest()
        files[digest] = blobs / digest.hex()
        files[digest].write_bytes(content)
        refs.append(SimpleNamespace(sha256=digest))
    offer = SimpleNamespace(job=job, round=round_, graph=refs[0], weights=refs[1], dim=bundle.parameter_count)
    ModelSlots(folder / "model", lambda: time.time_ns() // 1_000_000_000).landed(cast("Any", offer), files)


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def config(folder: Path) -> Path:
    path = folder / "agent.toml"
    path.write_text(
        f'state_dir = "{folder}"\nruntime_dir = "{folder}/run"\n[inference]\nmax_request_kib = 64\nidle_exit_s = 10\n'
    )
    return path


@pytest.fixture
def server(tmp_path):
    command = [
        *COMMAND,
        "--config",
        str(config(tmp_path)),
        "inference",
        "--socket",
        str(tmp_path / "run-inference.sock"),
    ]
    process = subprocess.Popen(command)
    found = Server(tmp_path, process)

    def answers() -> bool:
        try:
            return found.ask("GET", "/v1/models")[0] == 200
        except OSError:
            assert process.poll() is None, "it ended"
            return False

    wait_for(answers, "nobody answers")
    yield found
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.fixture
def serving(server):
    server.lands(a_bundle())
    return server


def test_json_in_json_out_as_the_interpreter_itself_says(serving):
    status, found, _ = serving.ask("POST", "/v1/infer", json.dumps({"inputs": ROWS}).encode(), Content_Type=JSON)
    assert status == 200
    np.testing.assert_array_equal(np.array(found["outputs"], np.float32), expected(a_bundle()))
    assert (found["model"]["job"], found["model"]["round"]) == ("digits", 1)


def test_raw_in_raw_out_is_the_same(serving):
    body = np.array(ROWS, "<f4").tobytes()
    status, content, headers = serving.ask("POST", "/v1/infer", body, Content_Type=RAW)
    assert (status, headers["Fedge-Shape"], headers["Fedge-Model"]) == (200, "2,3", "digits/1")
    np.testing.assert_array_equal(np.frombuffer(content, "<f4").reshape(2, 3), expected(a_bundle()))


def test_the_model_is_described_with_the_confinement_of_its_process(serving):
    status, found, _ = serving.ask("GET", "/v1/model")
    assert status == 200
    assert (found["input_dim"], found["output_dim"], found["parameters"]) == (12, 3, a_bundle().parameter_count)
    assert found["weights"] == hashlib.sha256(a_bundle().weights).hexdigest()
    assert found["confinement"]["no-new-privileges"] == "on"
    assert found["confinement"]["landlock"].startswith(("on", "off: the kernel has no Landlock"))


def test_the_process_with_the_interpreter_has_no_network_and_the_front_no_interpreter(serving):
    serving.ask("GET", "/v1/model")
    (child,) = serving.children()
    front = Path(f"/proc/{serving.process.pid}/maps").read_text()
    inner = Path(f"/proc/{child}/maps").read_text()
    assert "tflite" not in front
    assert "numpy" not in front
    assert "tflite" in inner or "litert" in inner
    sockets = [str(f.readlink()) for f in Path(f"/proc/{child}/fd").iterdir()]
    assert not [name for name in sockets if name.startswith("socket:")]
    assert Path(f"/proc/{child}/environ").read_bytes().count(b"FEDGE") == 0


def test_a_new_checkpoint_is_in_service_with_the_next_question_and_the_old_process_goes(serving):
    asked = json.dumps({"inputs": ROWS}).encode()
    serving.ask("POST", "/v1/infer", asked, Content_Type=JSON)
    before = serving.children()
    serving.lands(a_bundle(seed=2), round_=2)
    _, found, _ = serving.ask("POST", "/v1/infer", asked, Content_Type=JSON)
    assert found["model"]["round"] == 2
    np.testing.assert_array_equal(np.array(found["outputs"], np.float32), expected(a_bundle(seed=2)))
    wait_for(lambda: len(serving.children()) == 1, "the old process stays")
    assert serving.children() != before


def test_questions_during_a_swap_are_all_answered_by_one_model_or_the_other(serving):
    answers = {1: expected(a_bundle(seed=1)), 2: expected(a_bundle(seed=2))}
    asked = json.dumps({"inputs": ROWS}).encode()

    async def ask() -> dict[str, Any]:
        status, found, _ = await asyncio.to_thread(serving.ask, "POST", "/v1/infer", asked, Content_Type=JSON)
        assert status == 200
        return cast("dict[str, Any]", found)

    async def all_of_them() -> list[dict[str, Any]]:
        tasks = [asyncio.create_task(ask()) for _ in range(12)]
        await asyncio.sleep(0)
        serving.lands(a_bundle(seed=2), round_=2)
        tasks += [asyncio.create_task(ask()) for _ in range(12)]
        return list(await asyncio.gather(*tasks))

    for found in asyncio.run(all_of_them()):
        np.testing.assert_array_equal(np.array(found["outputs"], np.float32), answers[found["model"]["round"]])


def test_models_of_several_jobs_are_asked_by_name(serving):
    serving.lands(a_bundle(seed=3, width=4), job="other")
    _, listed, _ = serving.ask("GET", "/v1/models")
    assert {model["job"] for model in listed["models"]} == {"digits", "other"}
    assert serving.ask("GET", "/v1/model?job=other")[1]["input_dim"] == 4
    assert serving.ask("GET", "/v1/model?job=digits")[1]["input_dim"] == 12
    assert serving.ask("GET", "/v1/model?job=nobody")[1]["reason"] == "no-model"


GOOD = json.dumps({"inputs": ROWS}).encode()


@pytest.mark.parametrize(
    ("method", "target", "body", "content_type", "status", "reason"),
    [
        ("POST", "/v1/infer", b"", JSON, 422, "bad-input"),
        ("POST", "/v1/infer", b"[]", JSON, 422, "bad-input"),
        ("POST", "/v1/infer", b"{", JSON, 422, "bad-input"),
        ("POST", "/v1/infer", b"\xff\xfe", JSON, 422, "bad-input"),
        ("POST", "/v1/infer", b'{"inputs": []}', JSON, 422, "bad-input"),
        ("POST", "/v1/infer", b'{"inputs": [[1, 2]]}', JSON, 422, "bad-input"),
        ("POST", "/v1/infer", b'{"inputs": [["a"]]}', JSON, 422, "bad-input"),
        ("POST", "/v1/infer", b'{"inputs": [[NaN]]}', JSON, 422, "bad-input"),
        ("POST", "/v1/infer", b'{"inputs": [[1e400]]}', JSON, 422, "bad-input"),
        ("POST", "/v1/infer", b'{"inputs": [[1e300,' + b"0," * 10 + b"0]]}", JSON, 422, "bad-input"),
        ("POST", "/v1/infer", b'{"inputs": [[1]], "path": "/etc"}', JSON, 422, "bad-input"),
        ("POST", "/v1/infer", b"[" * 50_000, JSON, 422, "bad-input"),
        ("POST", "/v1/infer", b"", RAW, 422, "bad-input"),
        ("POST", "/v1/infer", b"1" * 47, RAW, 422, "bad-input"),
        ("POST", "/v1/infer", struct.pack("<12f", *[float("nan")] * 12), RAW, 422, "bad-input"),
        ("POST", "/v1/infer", struct.pack("<12f", *[float("inf")] * 12), RAW, 422, "bad-input"),
        ("POST", "/v1/infer", b"x" * 70_000, RAW, 413, "oversized"),
        ("POST", "/v1/infer", GOOD, "text/plain", 415, "unsupported-type"),
        ("POST", "/v1/infer", GOOD, "", 415, "unsupported-type"),
        ("POST", "/v1/infer?job=../x", GOOD, JSON, 400, "malformed"),
        ("POST", "/v1/infer?model=x", GOOD, JSON, 400, "malformed"),
        ("GET", "/v1/infer", None, "", 405, "method-not-allowed"),
        ("POST", "/v1/model", GOOD, JSON, 405, "method-not-allowed"),
        ("DELETE", "/v1/model", None, "", 405, "method-not-allowed"),
        ("GET", "/", None, "", 404, "not-found"),
        ("GET", "/v1/../etc/passwd", None, "", 404, "not-found"),
    ],
)
def test_bad_input_is_refused_by_name_and_hurts_nobody(serving, method, target, body, content_type, status, reason):
    headers = {"Content_Type": content_type} if content_type else {}
    found_status, found, _ = serving.ask(method, target, body, **headers)
    assert (found_status, found["reason"]) == (status, reason)
    assert found["cure"]
    assert serving.ask("POST", "/v1/infer", GOOD, Content_Type=JSON)[0] == 200


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"nonsense\r\n\r\n", 400, "malformed"),
        (b"GET /v1/model HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431, "head-too-long"),
        (b"POST /v1/infer HTTP/1.1\r\nContent-Type: application/json\r\n\r\n", 411, "length-required"),
        (b"POST /v1/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411, "length-required"),
        (b"POST /v1/infer HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{", 400, "malformed"),
        (b"GET /v1/model", 400, "malformed"),
    ],
)
def test_what_is_no_http_is_refused_and_the_connection_ends(serving, data, status, reason):
    answer = serving.raw(data, end=True)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["reason"] == reason
    assert b"Connection: close" in head
    assert serving.ask("GET", "/v1/models")[0] == 200


def test_a_client_that_waits_for_continue_gets_it(serving):
    request = (
        b"POST /v1/infer HTTP/1.1\r\nConnection: close\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
    )
    answer = serving.raw(request + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_one_connection_serves_many_questions(serving):
    request = (
        b"POST /v1/infer HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(GOOD) + GOOD
    )
    last = b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n"
    assert serving.raw(request * 3 + last).count(b"HTTP/1.1 200 OK") == 4


def test_before_a_model_has_landed_the_answer_says_so(server):
    status, found, _ = server.ask("GET", "/v1/model")
    assert (status, found["reason"]) == (503, "no-model")
    assert "takes part in a round" in found["cure"]


def test_a_model_that_is_none_leaves_the_former_in_service(serving):
    serving.ask("GET", "/v1/model")
    serving.lands(a_bundle(seed=2), round_=2, graph=b"no model at all")
    status, found, _ = serving.ask("POST", "/v1/infer", GOOD, Content_Type=JSON)
    assert (status, found["model"]["round"]) == (200, 1)
    serving.lands(a_bundle(seed=3), round_=3)
    assert serving.ask("GET", "/v1/model")[1]["round"] == 3


def test_without_a_former_a_model_that_is_none_is_refused_by_name(server):
    server.lands(a_bundle(), graph=b"no model at all")
    status, found, _ = server.ask("GET", "/v1/model")
    assert (status, found["reason"]) == (503, "bad-model")
    slot = read_slot(server.folder / "model" / "digits.json")
    assert slot is not None
    server.lands(a_bundle(), round_=2)
    (server.folder / "model" / hashlib.sha256(a_bundle().weights).hexdigest()).write_bytes(b"damaged")
    assert "another SHA-256" in server.ask("GET", "/v1/model")[1]["detail"]


def test_graphs_that_were_tampered_with_never_take_the_server_down(server):
    random = np.random.default_rng(5)
    good = bytearray(a_bundle().graph)
    for number in range(1, 13):
        graph = bytearray(good)
        for place in random.integers(0, len(graph), 12):
            graph[place] = random.integers(0, 256)
        server.lands(a_bundle(), round_=number, graph=bytes(graph[: len(graph) // number]))
        status, found, _ = server.ask("POST", "/v1/infer", GOOD, Content_Type=JSON)
        assert (status, found.get("reason")) in [
            (200, None), (503, "bad-model"), (502, "model-crashed"), (504, "timeout"), (422, "bad-input"),
        ]  # fmt: skip
    server.lands(a_bundle(), round_=99)
    assert server.ask("POST", "/v1/infer", GOOD, Content_Type=JSON)[1]["model"]["round"] == 99


def test_a_model_that_does_not_load_is_not_tried_again_at_once(tmp_path):
    land(tmp_path, a_bundle())
    script, now = tmp_path / "python", [0.0]
    script.write_text(f"#!/bin/sh\necho started >>{tmp_path}/starts\n")
    script.chmod(0o755)
    models = Models(tmp_path / "model", python=str(script), clock=lambda: now[0])

    async def asked() -> Reason:
        with pytest.raises(RefusedRequestError) as refused:
            await models.process(None)
        return refused.value.reason

    async def scenario() -> None:
        for now[0] in (0.0, 1.0, 9.0, 11.0):
            assert await asked() is Reason.MODEL_CRASHED

    asyncio.run(scenario())
    assert (tmp_path / "starts").read_text().count("started") == 2


def test_a_crashed_interpreter_is_named_and_the_next_question_gets_a_new_one(serving):
    serving.ask("GET", "/v1/model")
    (child,) = serving.children()
    os.kill(child, signal.SIGSTOP)  # so that the question is under way when it dies

    async def ask_and_kill() -> Any:
        question = asyncio.create_task(asyncio.to_thread(serving.ask, "POST", "/v1/infer", GOOD, Content_Type=JSON))
        await asyncio.sleep(0.3)
        os.kill(child, signal.SIGKILL)
        return await question

    status, found, _ = asyncio.run(ask_and_kill())
    assert (status, found["reason"]) == (502, "model-crashed")
    assert serving.ask("POST", "/v1/infer", GOOD, Content_Type=JSON)[0] == 200


def test_the_end_of_the_server_is_the_end_of_the_interpreter(serving):
    serving.ask("GET", "/v1/model")
    (child,) = serving.children()
    serving.process.kill()
    serving.process.wait(30)
    wait_for(lambda: not Path(f"/proc/{child}").exists(), "the interpreter's process stays")


def handed_over(folder: Path, listener: socket.socket, stderr: Any = None) -> subprocess.Popen[bytes]:
    """The command as systemd starts it: the socket is descriptor 3, and LISTEN_PID its own process id."""
    script = "import os,sys; os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); from fedge_agent.cli import main; sys.exit(main())"  # noqa: E501
    arguments = [sys.executable, "-c", script, "--config", str(config(folder)), "inference"]
    descriptor = listener.fileno()

    def place() -> None:
        os.dup2(descriptor, 3)
        os.set_inheritable(3, True)  # noqa: FBT003 - positional only

    return subprocess.Popen(arguments, pass_fds=(3,), preexec_fn=place, stderr=stderr)  # noqa: PLW1509 - one thread here


def test_started_by_its_socket_it_answers_who_waited_and_ends_when_nobody_asks(tmp_path):
    land(tmp_path, a_bundle())
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "run-inference.sock"))
        listener.listen()
        process = handed_over(tmp_path, listener)
        found = client.infer(tmp_path / "run-inference.sock", ROWS)
        np.testing.assert_array_equal(np.array(found["outputs"], np.float32), expected(a_bundle()))
        assert process.wait(60) == 0
        assert (tmp_path / "run-inference.sock").exists()  # it is systemd's
        process = handed_over(tmp_path, listener)
        assert client.describe(tmp_path / "run-inference.sock")["round"] == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_it_stops_quietly_while_somebody_holds_a_connection(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, (tmp_path / "log").open("wb") as log:
        listener.bind(str(tmp_path / "run-inference.sock"))
        listener.listen()
        process = handed_over(tmp_path, listener, stderr=log)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.connect(str(tmp_path / "run-inference.sock"))
            peer.sendall(b"GET /v1/models HTTP/1.1\r\n\r\n")
            assert peer.recv(65536).startswith(b"HTTP/1.1 200 OK")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_socket_that_other_machines_reach_is_not_served(tmp_path):
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))  # noqa: S104 - that is the point; nobody listens
        assert handed_over(tmp_path, listener).wait(60) == 78


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:{port}", "", 200),
        ("localhost:{port}", "", 200),
        ("evil.example:{port}", "", 403),
        ("127.0.0.1:{port}", "http://evil.example", 403),
    ],
)
def test_on_loopback_a_web_page_is_refused(tmp_path, host, origin, status):
    land(tmp_path, a_bundle())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        process = handed_over(tmp_path, listener)
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            headers = {"Host": host.format(port=port)} | ({"Origin": origin} if origin else {})
            connection.request("GET", "/v1/models", headers=headers)
            assert connection.getresponse().status == status
            connection.close()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def test_the_command_asks_with_json_csv_and_standard_input(serving, capsys, monkeypatch, tmp_path):
    words = ["--config", str(tmp_path / "agent.toml"), "infer"]
    (tmp_path / "rows.csv").write_text("# twelve\n" + "\n".join(",".join(map(str, row)) for row in ROWS))
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    said = []
    for name in ("rows.csv", "rows.json"):
        assert cli.main([*words, str(tmp_path / name)]) == cli.EX_OK
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    np.testing.assert_allclose(np.loadtxt(said[0].splitlines()), expected(a_bundle()), rtol=1e-4)
    with (tmp_path / "rows.json").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert cli.main([*words, "-o", "json"]) == cli.EX_OK
    assert len(json.loads(capsys.readouterr().out)["outputs"]) == 2
    assert cli.main([*words, "--model"]) == cli.EX_OK
    assert "job: digits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("[[1, 2]]", 1, "bad-input"),
        ("[[1, [2]]]", 2, "rows of numbers"),
        ("[[1,", 2, "no JSON"),
        ("", 2, "no rows"),
        ("a,b", 2, "rows of numbers"),
        ("[]", 2, "rows of numbers"),
        ('{"x": 1}', 2, "rows of numbers"),
        ("[[true]]", 2, "rows of numbers"),
    ],
)
def test_the_command_refuses_what_are_no_rows(serving, capsys, tmp_path, text, status, words):
    (tmp_path / "rows").write_text(text)
    assert cli.main(["--config", str(tmp_path / "agent.toml"), "infer", str(tmp_path / "rows")]) == status
    assert words in capsys.readouterr().err


def test_without_a_server_the_command_says_what_to_start(tmp_path, capsys):
    assert cli.main(["--config", str(config(tmp_path)), "infer", "--model"]) == cli.EX_UNREACHABLE
    assert "systemctl start fedge-inference.socket" in capsys.readouterr().err
    assert cli.main(["--config", str(config(tmp_path)), "inference"]) == cli.EX_USAGE
