"""Fetching addresses from a real server: bounds, redirects, and networks that must not be reached."""

import http.server
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from core.data_errors import AddressRefused, PullFailed
from ingestion import fetching as fetching_module
from ingestion.fetching import Validators, fetching, is_public, show_address

NOTHING = Validators()


class Server(http.server.ThreadingHTTPServer):
    """Answers with `content` under its ETag; other paths misbehave."""

    content = b"Date,Close\n"
    etag = '"1"'
    seen: list[tuple[str, dict[str, str]]]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            try:
                while True:
                    self.wfile.write(b"x" * 65536)
            except OSError:
                pass
        elif self.path.startswith("/error"):
            self.send_error(500)
        elif self.headers.get("If-None-Match") == self.server.etag:
            self.send_response(304)
            self.end_headers()
        else:
            self.send_response(200)
            self.send_header("ETag", self.server.etag)
            self.send_header("Last-Modified", "Sat, 21 Nov 2026 00:00:00 GMT")
            self.send_header("Content-Length", str(len(self.server.content)))
            self.end_headers()
            self.wfile.write(self.server.content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), _Handler) as running:
        running.seen = []
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def _fetch(
    address: str, known: Validators = NOTHING, *, max_bytes: int = 1 << 20, allows_private: bool = True
) -> tuple[bytes | None, Validators]:
    with fetching(address, known, max_bytes=max_bytes, allows_private=allows_private) as fetched:
        return (None if fetched.content is None else fetched.content.read()), fetched.validators


def test_content_comes_with_its_validators_and_not_again(server: Server, address: str) -> None:
    content, validators = _fetch(f"{address}/rows.csv?token=a%20b")
    again, kept = _fetch(f"{address}/rows.csv?token=a%20b", validators)

    assert content == server.content
    assert validators == Validators('"1"', "Sat, 21 Nov 2026 00:00:00 GMT")
    assert (again, kept) == (None, validators)
    assert [path for path, _ in server.seen] == ["/rows.csv?token=a%20b"] * 2
    assert server.seen[0][1]["host"] == address.removeprefix("http://")


def test_name_of_the_host_is_what_the_server_hears(server: Server, address: str) -> None:
    port = server.server_address[1]

    assert _fetch(f"http://localhost:{port}/x")[0] == server.content
    assert server.seen[0][1]["host"] == f"localhost:{port}"


def test_redirects_are_followed_within_http(server: Server, address: str) -> None:
    assert _fetch(f"{address}/to?/rows.csv")[0] == server.content
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/"):
        with pytest.raises(AddressRefused, match="allowed are http:// and https://"):
            _fetch(f"{address}/to?{target}")
    with pytest.raises(PullFailed, match="more than 5 redirects"):
        _fetch(f"{address}/to?/to?/to?/to?/to?/to?/to?/rows.csv")


def test_endless_answer_is_cut_off(address: str) -> None:
    with pytest.raises(PullFailed, match="more than the 100000 bytes"):
        _fetch(f"{address}/endless", max_bytes=100_000)


def test_declared_length_over_the_limit_is_not_read(server: Server, address: str) -> None:
    server.content = b"x" * 2_000

    with pytest.raises(PullFailed, match="more than the 1000 bytes"):
        _fetch(f"{address}/x", max_bytes=1_000)


def test_slow_answer_ends_at_the_deadline(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching_module, "DEADLINE_S", -1.0)

    with pytest.raises(PullFailed, match="it took more than"):
        _fetch(f"{address}/x")


@pytest.mark.parametrize(
    ("path", "reason"), [("/error", "the server answered 500"), ("/x", "refused|onnect")], ids=["error", "nobody"]
)
def test_server_that_does_not_deliver_is_named(server: Server, address: str, path: str, reason: str) -> None:
    if path == "/x":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{free.getsockname()[1]}"

    with pytest.raises(PullFailed, match=reason):
        _fetch(address + path)


def test_host_that_is_not_known_is_named() -> None:
    with pytest.raises(PullFailed, match="the host is not known here"):
        _fetch("http://nobody.invalid/rows.csv?token=secret")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"],  # noqa: S104
)
def test_private_network_is_refused_however_it_is_written(server: Server, host: str) -> None:
    with pytest.raises((AddressRefused, PullFailed), match="private network|not known here"):
        _fetch(f"http://{host}:{server.server_address[1]}/x", allows_private=False)

    assert server.seen == []


def test_redirect_into_a_private_network_is_refused(
    server: Server, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching_module, "is_public", lambda place: place != ipaddress.ip_address("127.0.0.2"))

    with pytest.raises(AddressRefused, match="private network"):
        _fetch(f"{address}/to?http://127.0.0.2:{server.server_address[1]}/x", allows_private=False)

    assert [path.partition("?")[0] for path, _ in server.seen] == ["/to"]


def test_connection_goes_to_the_address_that_was_judged(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to a public address first and to this machine afterwards gains nothing."""
    resolve: Callable[..., object] = socket.getaddrinfo
    asked: list[object] = []

    def rebind(host: object, *arguments: object, **options: object) -> object:
        if host == "rebind.test":
            asked.append(host)
        return resolve("127.0.0.1" if host == "rebind.test" else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebind)

    assert _fetch(f"http://rebind.test:{server.server_address[1]}/x")[0] == server.content
    assert asked == ["rebind.test"]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),  # noqa: S104
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.215.14", True),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::5db8:d70e", True),
        ("2002:a00:1::", False),
    ],
)
def test_networks_are_told_apart(place: str, expected: bool) -> None:
    assert is_public(ipaddress.ip_address(place)) is expected


@pytest.mark.parametrize(
    "address", ["", "rows.csv", "ftp://host/x", "file:///etc/passwd", "http://", "http://user:password@host/x"]
)
def test_address_that_may_not_be_declared_is_refused_without_its_secrets(address: str) -> None:
    with pytest.raises(AddressRefused) as caught:
        show_address(address)

    assert "password@" not in caught.value.sentence


def test_address_is_shown_without_its_query() -> None:
    assert show_address("https://host:8443/rows.csv?token=secret#x") == "https://host:8443/rows.csv"
