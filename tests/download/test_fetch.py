"""Downloads, against a real local server that does what servers do."""

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.http_server import MisbehavingServer, Reply

from hded.common.errors import HDEDError
from hded.download.fetch import RemoteFile, fetch

BODY = random.Random(1).randbytes(300_000)
CHANGED = random.Random(2).randbytes(310_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(monkeypatch) -> Iterator[MisbehavingServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with MisbehavingServer() as running:
        yield running


def get(
    folder: Path,
    *urls: str,
    name: str = "file.bin",
    sha256: str | None = None,
    size: int | None = None,
    timeout_s: float = 10.0,
    retries: int = 2,
    backoff_s: float = 0.01,
) -> Path:
    file = RemoteFile(name=name, urls=urls, sha256=sha256, size=size)
    return fetch(file, folder, timeout_s=timeout_s, retries=retries, backoff_s=backoff_s)


def refusal(folder: Path, *urls: str, **kwargs) -> str:
    """The message of a fetch that must fail: one line, which ends with where to place the file."""
    with pytest.raises(HDEDError) as caught:
        get(folder, *urls, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(f"place the file here: {folder / kwargs.get('name', 'file.bin')}")
    return message


def leftovers(folder: Path) -> list[str]:
    """What lies beside the file and what may always lie there."""
    usual = {"file.bin", "file.bin.verified.json", "file.bin.lock"}
    return sorted({path.name for path in folder.iterdir()} - usual)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within 20 s"
        time.sleep(0.005)


# The good case and what is remembered


def test_a_file_arrives_whole_and_leaves_nothing_behind(tmp_path, server):
    url = server.serve("/f", Reply(body=BODY))
    path = get(tmp_path / "new" / "folder", url, sha256=SHA256.upper(), size=len(BODY))
    assert path == tmp_path / "new" / "folder" / "file.bin"
    assert path.read_bytes() == BODY
    assert leftovers(path.parent) == []


def test_a_verified_file_costs_neither_network_nor_hashing(tmp_path, server):
    url = server.serve("/f", Reply(body=BODY))
    path = get(tmp_path, url, sha256=SHA256)
    stat = path.stat()
    path.write_bytes(CHANGED[: len(BODY)])  # unseen under the old time stamp: it is not read again
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert get(tmp_path, url, sha256=SHA256) == path
    assert len(server.asked("/f")) == 1

    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert "sha256" in refusal(tmp_path, url, sha256=SHA256)
    assert len(server.asked("/f")) == 1


def test_what_is_learnt_later_is_checked_against_a_file_accepted_without(tmp_path, server):
    path = get(tmp_path, server.serve("/f", Reply(body=CHANGED)))
    assert SHA256 in refusal(tmp_path, server.url("/f"), sha256=SHA256)
    assert "expected 300000" in refusal(tmp_path, server.url("/f"), size=len(BODY))
    assert path.read_bytes() == CHANGED


def test_a_file_is_used_where_the_record_of_its_check_cannot_be_written(tmp_path):
    (tmp_path / "file.bin").write_bytes(BODY)
    (tmp_path / "file.bin.verified.json").mkdir()
    assert get(tmp_path, sha256=SHA256).read_bytes() == BODY
    assert leftovers(tmp_path) == []


def test_progress_shows_rate_and_time_left(tmp_path, server, capsys):
    url = server.serve("/f", Reply(body=BODY, piece=10_000, pause_s=0.05))
    get(tmp_path, url)
    shown = capsys.readouterr().err
    assert "file.bin" in shown and "B/s" in shown and "<00:0" in shown


# Dropped connections


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
def test_a_dropped_download_is_continued_where_it_stopped(tmp_path, server, reset):
    url = server.serve("/f", Reply(body=BODY, cut_after=100_000, reset=reset), Reply(body=BODY))
    assert get(tmp_path, url).read_bytes() == BODY
    first, second = server.asked("/f")
    assert first.range is None
    if not reset:  # RST may destroy what was sent but not yet read
        assert second.range == "bytes=100000-"
        assert second.headers["if-range"] == '"v1"'
    assert leftovers(tmp_path) == []


def test_a_server_that_always_drops_delivers_as_long_as_each_try_brings_something(tmp_path, server):
    url = server.serve("/f", Reply(body=BODY, cut_after=70_000))
    assert get(tmp_path, url, retries=1).read_bytes() == BODY
    assert len(server.asked("/f")) == 5


def test_tries_without_progress_are_counted(tmp_path, server):
    url = server.serve("/f", Reply(body=BODY, cut_after=100_000, ignores_range=True))
    message = refusal(tmp_path, url, retries=2)
    assert len(server.asked("/f")) == 1 + 2
    assert "100000 bytes of it kept" in message
    assert not (tmp_path / "file.bin").exists()


def test_the_next_run_continues_what_the_last_one_left(tmp_path, server):
    url = server.serve("/f", Reply(body=BODY, cut_after=100_000))
    refusal(tmp_path, url, retries=0)
    server.serve("/f", Reply(body=BODY))
    assert get(tmp_path, url).read_bytes() == BODY
    assert server.asked("/f")[-1].range == "bytes=100000-"


def test_an_ignored_range_starts_again_instead_of_appending(tmp_path, server):
    url = server.serve(
        "/f", Reply(body=BODY, cut_after=100_000), Reply(body=BODY, ignores_range=True)
    )
    assert get(tmp_path, url).read_bytes() == BODY
    assert server.asked("/f")[1].range == "bytes=100000-"


@pytest.mark.parametrize("start", [90_000, 110_000])
def test_a_range_from_elsewhere_is_not_appended(tmp_path, server, start):
    url = server.serve(
        "/f",
        Reply(body=BODY, cut_after=100_000),
        Reply(body=BODY, range_start=start),
        Reply(body=BODY),
    )
    assert get(tmp_path, url).read_bytes() == BODY


def test_a_chunked_body_that_breaks_off_is_noticed(tmp_path, server):
    url = server.serve(
        "/f", Reply(body=BODY, chunked=True, cut_after=100_000), Reply(body=BODY, chunked=True)
    )
    assert get(tmp_path, url).read_bytes() == BODY
    assert len(server.asked("/f")) == 2


# A file that changes between the tries


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"etag": '"v1"'}, {"etag": '"v2"'}),
        ({"etag": '"v1"'}, {"etag": '"v2"', "ignores_if_range": True}),
        ({"etag": '"v1"'}, {"etag": '"v1"', "body": CHANGED}),  # its length tells
        (
            {"etag": None, "last_modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
            {"etag": None, "last_modified": "Tue, 02 Jan 2024 00:00:00 GMT"},
        ),
        (
            {"etag": 'W/"v1"', "last_modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
            {"etag": 'W/"v1"', "last_modified": "Tue, 02 Jan 2024 00:00:00 GMT"},
        ),
        ({"etag": None}, {"etag": None}),
        ({"etag": 'W/"v1"'}, {"etag": 'W/"v1"'}),
    ],
    ids=["etag", "if-range-ignored", "same-etag", "date", "weak-etag", "nothing", "weak-alone"],
)
def test_a_file_changed_between_tries_is_never_spliced(tmp_path, server, before, after):
    after = {"body": CHANGED[: len(BODY)]} | after
    url = server.serve("/f", Reply(body=BODY, cut_after=100_000, **before), Reply(**after))
    assert get(tmp_path, url).read_bytes() == after["body"]


def test_a_file_without_a_known_digest_is_reported_when_it_changes(tmp_path, server, capsys):
    path = get(tmp_path, server.serve("/f", Reply(body=BODY)))
    assert "fetched first" not in capsys.readouterr().err
    path.unlink()
    other = BODY[::-1]
    assert get(tmp_path, server.serve("/f", Reply(body=other))).read_bytes() == other
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "fetched first" in line]
    assert SHA256 in line and hashlib.sha256(other).hexdigest() in line
    # said again when it comes again, until the user accepts it
    path.unlink()
    get(tmp_path, server.serve("/f", Reply(body=other)))
    assert SHA256 in capsys.readouterr().err
    path.unlink()
    (tmp_path / "file.bin.verified.json").unlink()
    get(tmp_path, server.serve("/f", Reply(body=other)))
    assert "fetched first" not in capsys.readouterr().err


def test_a_digest_that_differs_at_the_right_size_says_how_to_go_on(tmp_path, server):
    url = server.serve("/f", Reply(body=BODY[::-1]))
    message = refusal(tmp_path, url, sha256=SHA256, size=len(BODY))
    assert "kept as file.bin.rejected" in message
    assert "rename it to file.bin and correct the sha256 in params.yaml" in message
    assert (tmp_path / "file.bin.rejected").read_bytes() == BODY[::-1]


def test_without_validators_a_sha256_allows_to_continue(tmp_path, server):
    url = server.serve(
        "/f", Reply(body=BODY, cut_after=100_000, etag=None), Reply(body=BODY, etag=None)
    )
    assert get(tmp_path, url, sha256=SHA256).read_bytes() == BODY
    assert server.asked("/f")[1].range == "bytes=100000-"


def test_a_splice_that_only_the_sha256_can_see_is_downloaded_afresh(tmp_path, server):
    other = CHANGED[: len(BODY)]
    url = server.serve(
        "/f", Reply(body=other, cut_after=100_000, etag=None), Reply(body=BODY, etag=None)
    )
    assert get(tmp_path, url, sha256=SHA256).read_bytes() == BODY
    assert [asked.range for asked in server.asked("/f")] == [None, "bytes=100000-", None]
    assert leftovers(tmp_path) == []


def test_a_file_that_shrank_is_downloaded_afresh(tmp_path, server):
    url = server.serve(
        "/f", Reply(body=CHANGED, cut_after=250_000), Reply(body=BODY[:200_000], etag='"v1"')
    )  # the second answer to the range is a 416
    assert get(tmp_path, url).read_bytes() == BODY[:200_000]
    assert [asked.range for asked in server.asked("/f")] == [None, "bytes=250000-", None]


# Lies about the length


def test_a_length_above_the_body_is_never_taken_for_whole(tmp_path, server):
    url = server.serve("/f", Reply(body=BODY, content_length=len(BODY) + 5000, ignores_range=True))
    refusal(tmp_path, url)
    assert not (tmp_path / "file.bin").exists()


def test_a_length_below_the_body_is_seen_by_the_known_size(tmp_path, server):
    url = server.serve("/f", Reply(body=BODY, content_length=200_000))
    assert "has 200000 bytes, expected 300000" in refusal(tmp_path, url, size=len(BODY))
    assert leftovers(tmp_path) == []


def test_a_length_below_the_body_is_seen_by_the_sha256(tmp_path, server):
    url = server.serve("/f", Reply(body=BODY, content_length=200_000))
    assert "sha256" in refusal(tmp_path, url, sha256=SHA256)
    assert not (tmp_path / "file.bin").exists()


@pytest.mark.parametrize("length", ["", "many", "-1"])
def test_without_a_length_only_a_known_size_or_sha256_tells_the_end(tmp_path, server, length):
    url = server.serve("/f", Reply(body=BODY, content_length=length))
    assert "does not say how long" in refusal(tmp_path, url)
    assert get(tmp_path, url, sha256=SHA256).read_bytes() == BODY
    assert get(tmp_path / "sized", url, size=len(BODY)).read_bytes() == BODY


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_without_length_must_have_the_known_size(tmp_path, server, chunked):
    url = server.serve("/f", Reply(body=CHANGED, content_length="", chunked=chunked))
    assert "sent more than" in refusal(tmp_path, url, size=len(BODY))
    server.serve("/f", Reply(body=BODY[:1000], content_length="", chunked=chunked))
    assert "ended after 1000 of 300000" in refusal(tmp_path, url, size=len(BODY))
    assert not (tmp_path / "file.bin").exists()


def test_an_empty_body_is_no_file(tmp_path, server):
    refusal(tmp_path, server.serve("/f", Reply(body=b"")))
    assert leftovers(tmp_path) == []


# Wrong things under status 200, and other statuses


@pytest.mark.parametrize("kind", ["text/html", "Text/HTML; charset=utf-8", "application/xhtml+xml"])
def test_an_html_page_in_place_of_the_file_is_refused_at_once(tmp_path, server, kind):
    url = server.serve("/f", Reply(body=b"<p>Please log in", content_type=kind))
    assert "HTML page" in refusal(tmp_path, url)
    assert len(server.asked("/f")) == 1
    assert leftovers(tmp_path) == []


def test_an_html_page_is_known_by_its_start_whatever_the_server_calls_it(tmp_path, server):
    url = server.serve("/f", Reply(body=b"\n<!DOCTYPE html>\n<title>Maintenance</title>"))
    assert "HTML page" in refusal(tmp_path, url)


def test_an_html_page_does_not_destroy_the_part_that_came_before(tmp_path, server):
    page = Reply(body=b"<html>log in", content_type="text/html", ignores_range=True)
    url = server.serve("/f", Reply(body=BODY, cut_after=100_000), page)
    refusal(tmp_path, url)
    server.serve("/f", Reply(body=BODY))
    assert get(tmp_path, url).read_bytes() == BODY
    assert server.asked("/f")[-1].range == "bytes=100000-"


def test_an_html_page_is_fine_where_one_is_asked_for(tmp_path, server):
    url = server.serve("/f", Reply(body=b"<html>hello", content_type="text/html"))
    assert get(tmp_path, url, name="page.html").read_bytes() == b"<html>hello"


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip"])
def test_bytes_are_the_files_own_not_an_encoding_of_them(tmp_path, server, encoding):
    url = server.serve("/f", Reply(body=BODY, headers={"Content-Encoding": encoding}))
    assert "encoded" in refusal(tmp_path, url)
    assert server.asked("/f")[0].headers["accept-encoding"] == "identity"
    assert get(tmp_path, url, name="file.tar.gz").read_bytes() == BODY


@pytest.mark.parametrize(
    ("status", "tries"),
    [(204, 1), (403, 1), (404, 1), (410, 1), (416, 1), (429, 3), (500, 3), (503, 3)],
)
def test_only_errors_that_may_pass_are_retried(tmp_path, server, status, tries):
    body = b"" if status == 204 else b"<html>sorry"
    url = server.serve("/f", Reply(status=status, body=body, content_type="text/html"))
    assert f"HTTP {status}" in refusal(tmp_path, url, retries=2)
    assert len(server.asked("/f")) == tries


def test_a_server_that_recovers_delivers(tmp_path, server):
    url = server.serve("/f", Reply(status=500), Reply(status=503), Reply(body=BODY))
    assert get(tmp_path, url).read_bytes() == BODY


def test_a_server_says_itself_when_to_come_again(tmp_path, server):
    url = server.serve("/f", Reply(status=503, headers={"Retry-After": "0"}), Reply(body=BODY))
    started = time.monotonic()
    get(tmp_path, url, backoff_s=15.0)
    assert time.monotonic() - started < 10


def test_redirects_are_followed_also_when_continuing(tmp_path, server):
    server.serve("/real", Reply(body=BODY, cut_after=100_000), Reply(body=BODY))
    url = server.serve("/f", Reply(status=302, headers={"Location": "/real"}))
    assert get(tmp_path, url).read_bytes() == BODY
    assert [asked.range for asked in server.asked("/real")] == [None, "bytes=100000-"]


@pytest.mark.parametrize("target", ["/f", "file:///etc/hostname", "http://"])
def test_redirects_that_lead_nowhere_are_given_up_at_once(tmp_path, server, target):
    url = server.serve("/f", Reply(status=301, headers={"Location": target}))
    refusal(tmp_path, url, retries=50, backoff_s=1.0)


# Silence


def test_a_stalled_download_times_out_and_is_continued(tmp_path, server):
    url = server.serve("/f", Reply(body=BODY, stall_after=100_000), Reply(body=BODY))
    assert get(tmp_path, url, timeout_s=1.5).read_bytes() == BODY
    assert server.asked("/f")[1].range == "bytes=100000-"


def test_a_trickle_counts_as_a_stall(tmp_path, server):
    url = server.serve("/f", Reply(body=BODY, piece=1, pause_s=0.05))
    assert "less than 1024 B/s" in refusal(tmp_path, url, timeout_s=1.0, retries=0)


def test_a_server_that_accepts_and_says_nothing_times_out(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/f"
        assert "no answer for 0.3 s" in refusal(tmp_path, url, timeout_s=0.3, retries=1)


# Mirrors


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as once:
        return once.getsockname()[1]


def test_mirrors_are_tried_in_turn(tmp_path, server):
    refused = f"http://127.0.0.1:{closed_port()}/f"
    missing = server.url("/missing")
    good = server.serve("/f", Reply(body=BODY))
    spare = server.serve("/spare", Reply(body=CHANGED))
    assert get(tmp_path, refused, missing, good, spare).read_bytes() == BODY
    assert server.asked("/spare") == []


def test_the_error_says_what_failed_at_each_mirror(tmp_path, server):
    port = closed_port()
    page = server.serve("/page", Reply(body=b"hello", content_type="text/html"))
    message = refusal(tmp_path, f"http://127.0.0.1:{port}/f", server.url("/gone"), page)
    assert f"127.0.0.1:{port}/f: Connection refused" in message
    assert "/gone: HTTP 404" in message
    assert "/page: sent an HTML page" in message


def test_mirrors_are_never_spliced(tmp_path, server):
    first = server.serve("/a", Reply(body=BODY, cut_after=100_000), Reply(status=404))
    second = server.serve("/b", Reply(body=CHANGED))
    assert get(tmp_path, first, second).read_bytes() == CHANGED
    assert server.asked("/b")[0].range is None
    assert leftovers(tmp_path) == []


def test_a_mirror_with_another_file_is_passed_over(tmp_path, server):
    wrong = server.serve("/wrong", Reply(body=CHANGED))
    right = server.serve("/right", Reply(body=BODY))
    assert get(tmp_path, wrong, right, sha256=SHA256).read_bytes() == BODY
    assert len(server.asked("/wrong")) == 1
    assert leftovers(tmp_path) == []


def test_a_download_with_the_wrong_sha256_is_kept_aside_for_the_user_to_judge(tmp_path, server):
    url = server.serve("/wrong", Reply(body=CHANGED))
    message = refusal(tmp_path, url, sha256=SHA256)
    assert SHA256 in message and hashlib.sha256(CHANGED).hexdigest() in message
    assert "kept as file.bin.rejected" in message
    assert (tmp_path / "file.bin.rejected").read_bytes() == CHANGED
    assert not (tmp_path / "file.bin").exists()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/f", "/local/file", "http://[::1", "http:///f"])
def test_an_unusable_url_is_an_error_of_its_mirror(tmp_path, url):
    refusal(tmp_path, url, retries=50, backoff_s=1.0)


def test_passwords_and_signed_queries_stay_out_of_messages(tmp_path, server, capsys):
    server.serve("/f", Reply(status=500))
    url = server.url("/f?token=hidden1").replace("http://", "http://me:hidden2@")
    assert "hidden" not in refusal(tmp_path, url)
    assert "hidden" not in capsys.readouterr().err


# What the user placed


def test_a_file_placed_by_hand_is_used_without_network(tmp_path):
    (tmp_path / "file.bin").write_bytes(BODY)
    url = f"http://127.0.0.1:{closed_port()}/f"
    assert get(tmp_path, url, sha256=SHA256, size=len(BODY)).read_bytes() == BODY


def test_a_file_placed_by_hand_is_accepted_where_nothing_is_known_of_it(tmp_path):
    (tmp_path / "file.bin").write_bytes(b"x")
    assert get(tmp_path).read_bytes() == b"x"


@pytest.mark.parametrize(
    ("content", "known", "why"),
    [
        (CHANGED, {"sha256": SHA256}, "sha256"),
        (CHANGED, {"size": len(BODY)}, "310000 bytes, expected 300000"),
        (b"", {}, "0 bytes"),
        (b"<HTML><body>404", {}, "HTML page"),
    ],
    ids=["sha256", "size", "empty", "html"],
)
def test_a_wrong_file_of_the_user_is_left_as_it_is(tmp_path, server, content, known, why):
    url = server.serve("/f", Reply(body=BODY))
    placed = tmp_path / "file.bin"
    placed.write_bytes(content)
    before = placed.stat()
    message = refusal(tmp_path, url, **known)
    assert why in message and "move it away" in message
    assert placed.read_bytes() == content
    assert placed.stat().st_mtime_ns == before.st_mtime_ns
    assert server.asked("/f") == []


def test_links_and_folders_of_the_user_are_left_as_they_are(tmp_path, server):
    url = server.serve("/f", Reply(body=BODY))
    (tmp_path / "file.bin").symlink_to(tmp_path / "unmounted" / "file.bin")
    assert "a link to nothing" in refusal(tmp_path, url)
    (tmp_path / "folder.bin").mkdir()
    assert "not a regular file" in refusal(tmp_path, url, name="folder.bin")
    assert server.asked("/f") == []


def test_a_file_without_urls_can_only_be_placed(tmp_path):
    assert "no URL of it is known" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../b", "a\\b", "a\nb"])
def test_a_name_is_a_plain_name(name):
    with pytest.raises(HDEDError, match="plain name"):
        RemoteFile(name=name, urls=())


@pytest.mark.parametrize("known", [{"sha256": "abc"}, {"sha256": "g" * 64}, {"size": 0}])
def test_what_is_known_of_a_file_must_make_sense(known):
    with pytest.raises(HDEDError, match=r"f\.bin: "):
        RemoteFile(name="f.bin", urls=(), **known)


# Disks


def test_the_disk_is_checked_before_anything_is_written(tmp_path, server):
    url = server.serve("/f", Reply(body=BODY, content_length=10**17))
    assert "100000000000000000 more bytes" in refusal(tmp_path, url)
    assert leftovers(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path, server):
    (tmp_path / "taken").write_text("a file")
    url = server.serve("/f", Reply(body=BODY))
    assert "cannot use the folder" in refusal(tmp_path / "taken" / "below", url)
    assert server.asked("/f") == []


# Processes

SCRIPT = """
import resource, sys
from pathlib import Path
from hded.download.fetch import RemoteFile, fetch
from hded.common.errors import HDEDError
folder, url, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
print("started", flush=True)
try:
    fetch(RemoteFile(name="file.bin", urls=(url,)), Path(folder), timeout_s=10, backoff_s=0.01)
except HDEDError as error:
    sys.exit(str(error))
"""


def spawn(folder: Path, url: str, limit: int = 0) -> subprocess.Popen[str]:
    """Start a process that fetches `file.bin`; `limit` bounds the files it may write [bytes]."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(folder), url, str(limit)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_disk_that_fills_is_one_clear_error_and_keeps_what_came(tmp_path, server):
    url = server.serve("/f", Reply(body=BODY))
    with spawn(tmp_path, url, limit=150_000) as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "cannot use the folder" in err and "Traceback" not in err
    assert err.rstrip().endswith(f"place the file here: {tmp_path / 'file.bin'}")

    assert get(tmp_path, url).read_bytes() == BODY
    start = int((server.asked("/f")[-1].range or "bytes=0-")[len("bytes=") : -1])
    assert 0 < start <= 150_000


def test_two_processes_at_once_download_once(tmp_path, server):
    hold = threading.Event()
    url = server.serve("/f", Reply(body=BODY, hold=hold))
    with spawn(tmp_path, url) as one, spawn(tmp_path, url) as two:
        assert one.stdout and two.stdout
        assert one.stdout.readline() == two.stdout.readline() == "started\n"
        until(lambda: bool(server.asked("/f")), "request")
        time.sleep(0.5)  # time for the other to ask too, if nothing kept it from it
        assert one.poll() is two.poll() is None
        hold.set()
        errors = [process.communicate(timeout=20)[1] for process in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0), errors
    assert len(server.asked("/f")) == 1
    assert (tmp_path / "file.bin").read_bytes() == BODY


def test_a_killed_download_is_continued_by_the_next_process(tmp_path, server):
    url = server.serve("/f", Reply(body=BODY, piece=2000, pause_s=0.004))  # about 0.6 s
    moments = random.Random(3)
    for kills in range(1, 7):
        with spawn(tmp_path, url) as process:
            until(lambda wanted=kills: len(server.asked("/f")) >= wanted, "request")
            time.sleep(moments.uniform(0.0, 0.15))
            process.send_signal(signal.SIGKILL)
        assert not (tmp_path / "file.bin").exists()
    server.serve("/f", Reply(body=BODY))
    assert get(tmp_path, url).read_bytes() == BODY
    starts = [int((asked.range or "bytes=0-")[len("bytes=") : -1]) for asked in server.asked("/f")]
    assert starts == sorted(starts) and starts[-1] > 0
    assert leftovers(tmp_path) == []


def test_a_download_killed_before_its_rename_needs_no_network(tmp_path, server):
    url = server.serve("/f", Reply(body=BODY, cut_after=100_000))
    refusal(tmp_path, url, retries=0)
    (part,) = tmp_path.glob("*.part")
    part.write_bytes(BODY)  # as it is when all came and the process died before it was renamed
    assert get(tmp_path, url, sha256=SHA256).read_bytes() == BODY
    assert len(server.asked("/f")) == 1
