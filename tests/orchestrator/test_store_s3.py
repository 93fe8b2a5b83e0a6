"""The store on S3: a local moto server over real HTTP, addressed by the environment variables that users set."""

from __future__ import annotations

import http.client
import http.server
import json
import subprocess
import sys
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from orchestrator.record.leases import acquire, holder
from orchestrator.record.store import Store, StoreError, open_store
from tests.contracts import records
from tests.contracts.store_contract import StoreContract
from tests.orchestrator.test_full_disk import table
from tests.orchestrator.test_run import ROOT, TINY, environment, executed, metrics

moto_server = pytest.importorskip("moto.server", reason="moto[server] (extra dev) is not installed")

# The keys keep the client from asking a cloud machine's metadata service for some.
SETTINGS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
SETTINGS |= {"AWS_ALLOW_HTTP": "true", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false", "NO_PROXY": "127.0.0.1"}
OTHERS = ("AWS_ENDPOINT", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_WEB_IDENTITY_TOKEN_FILE")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A moto server with an empty bucket, and the environment that leads to it."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"), timeout=20).close()
    with pytest.MonkeyPatch.context() as patch:
        for name in OTHERS:
            patch.delenv(name, raising=False)
        for name, value in {**SETTINGS, "AWS_ENDPOINT_URL": url}.items():
            patch.setenv(name, value)
        yield url
    server.stop()


@pytest.mark.usefixtures("endpoint")
class TestS3(StoreContract):
    @pytest.fixture
    def address(self) -> str:
        return f"s3://bucket/{uuid.uuid4().hex}/runs"

    def test_nothing_is_kept_locally(self, store: Store, address: str) -> None:
        assert store.folder is None and store.address == address


@pytest.mark.usefixtures("endpoint")
class TestS3UnderAHostilePrefix(StoreContract):
    @pytest.fixture
    def address(self) -> str:
        return f"s3://bucket/läufe & co/{uuid.uuid4().hex}"


class Lossy(http.server.BaseHTTPRequestHandler):
    """Passes requests on. Of PUTs that are in `lose`, the first is carried out and its answer lost."""

    target = ""
    lose: ClassVar[set[str]] = set()
    puts: ClassVar[list[str]] = []

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = self.path.rsplit("/", 1)[-1]
        self.puts.append(name)
        answer = self._pass_on(body)
        if name in self.lose:
            self.lose.discard(name)
            self.send_response(500)  # what S3 says when it does not know either
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._answer(*answer)

    def do_GET(self) -> None:
        self._answer(*self._pass_on(b""))

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.target, timeout=20)
        connection.request(self.command, self.path, body, dict(self.headers))
        response = connection.getresponse()
        return response.status, response.getheaders(), response.read()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "date", "server", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def lossy(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Lossy]]:
    handler = type("Handler", (Lossy,), {"target": endpoint.removeprefix("http://"), "lose": set(), "puts": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield handler
        server.shutdown()


def test_a_commit_whose_answer_is_lost_is_still_ours(lossy: type[Lossy]) -> None:
    """The client asks again and is told that the record exists; were it taken for another's, its files would go."""
    store = open_store(f"s3://bucket/{uuid.uuid4().hex}")
    lossy.lose.add("a.json")
    assert store.commit(records.commit("a", attempt="one")) is True
    assert lossy.puts.count("a.json") == 2  # the case has really happened
    assert store.commit(records.commit("a", attempt="two")) is False
    assert store.commits(["a"])["a"]["attempt"] == "one"


def test_a_lease_whose_answer_is_lost_is_held(lossy: type[Lossy]) -> None:
    store = open_store(f"s3://bucket/{uuid.uuid4().hex}")
    lossy.lose.add("000001.json")
    lease = acquire(store, "a", holder("one"))
    assert lossy.puts.count("000001.json") == 2
    assert lease is not None and acquire(store, "a", holder("two")) is None
    lease.renew(1, 2)


@pytest.mark.usefixtures("endpoint")
def test_a_bucket_that_is_not_there_is_one_message() -> None:
    with pytest.raises(StoreError) as caught:
        open_store("s3://no-such-bucket/runs").probe("start")
    text = str(caught.value)
    assert text.startswith("store s3://no-such-bucket/runs: cannot write probes/start: ") and "\n" not in text
    assert "NoSuchBucket" in text or "404" in text or "not found" in text


def test_a_server_that_does_not_answer_is_one_message(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError) as caught:
        open_store("s3://bucket/runs").probe("start")
    text = str(caught.value)
    assert text.startswith("store s3://bucket/runs: cannot write probes/start: ") and "\n" not in text
    assert "127.0.0.1:9" in text


@pytest.mark.usefixtures("endpoint")
@pytest.mark.slow
def test_a_grid_runs_on_s3_and_is_reused(tmp_path: Path) -> None:
    """Through the environment alone; equal to a local store digit for digit."""
    uri = f"s3://bucket/{uuid.uuid4().hex}/runs"
    more = ["--only", "seed=0", "--executor", "inline", "--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    totals = [_run(tmp_path, uri, *more) for _ in range(2)]
    assert executed(totals[0]) == {"pretrain": 2, "finetune": 8} and totals[0]["succeeded"] == 10
    assert executed(totals[1]) == {} and totals[1]["reused"] == 10
    _run(tmp_path, str(tmp_path / "runs"), *more)
    assert metrics(open_store(uri)) == metrics(open_store(str(tmp_path / "runs")))
    tables = [table(store, tmp_path / name) for name, store in (("s3", uri), ("local", str(tmp_path / "runs")))]
    assert tables[0] == tables[1]


def _run(tmp: Path, store: str, *more: str) -> dict:
    command = [sys.executable, "-m", "orchestrator.run_grid", "smoke", "--store", store, "--json", *TINY, *more]
    done = subprocess.run(command, cwd=ROOT, env=environment(tmp), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
