import contextlib
import gzip
import hashlib
import http.server
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from compression_gate.errors import DataError
from compression_gate.tasks import fashion_mnist_files as files

IMAGES = np.arange(5 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(5, 28, 28)
LABELS = np.array([3, 1, 4, 1, 5], dtype=np.uint8)


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


PAYLOADS = {
    name: idx(IMAGES if "images" in name else LABELS)
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )
}


@pytest.fixture(autouse=True)
def small_files_instead(monkeypatch, tmp_path):
    """Small files take the place of the published ones; no test reaches a real source or this machine's copy."""
    monkeypatch.setattr(files, "DIGESTS", {name: hashlib.sha256(data).hexdigest() for name, data in PAYLOADS.items()})
    monkeypatch.setattr(files, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(files, "UPSTREAM", ())
    monkeypatch.setattr(files, "STALL_S", 0.5)
    monkeypatch.setattr(files.shutil, "which", lambda _: None)
    monkeypatch.delenv(files.ENVIRONMENT_VARIABLE, raising=False)


def fill(folder, *, gzipped=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, payload in PAYLOADS.items():
        (folder / (f"{name}.gz" if gzipped else name)).write_bytes(gzip.compress(payload) if gzipped else payload)
    return folder


def everything_in(folder):
    return sorted(path.name for path in folder.rglob("*"))


class Server(http.server.ThreadingHTTPServer):
    """Serves ``contents`` by file name; breaks off after ``cut`` bytes of a reply, or knows no ranges."""

    daemon_threads = True

    def __init__(self, contents, *, cut=None, ranges=True):
        super().__init__(("127.0.0.1", 0), Answer)
        self.contents, self.cut, self.ranges = contents, cut, ranges
        self.asked = []

    @property
    def base(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.server.contents.get(self.path.rpartition("/")[2])
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        if body is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:] if self.server.cut is None else body[start : start + self.server.cut])

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(contents, **options):
    with Server(contents, **options) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


PACKED = gzip.compress(PAYLOADS["train-images-idx3-ubyte"])
DIGEST = hashlib.sha256(PAYLOADS["train-images-idx3-ubyte"]).hexdigest()


DAMAGED = {"truncated": PACKED[:-10], "flipped byte": PACKED[:60] + bytes([PACKED[60] ^ 0xFF]) + PACKED[61:]}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_read_refuses_a_damaged_gzip(tmp_path, content):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: expected a whole gzip file"):
        files.read(tmp_path, "train-images-idx3-ubyte")


@pytest.mark.parametrize("gzipped", [True, False], ids=["gzipped", "raw"])
def test_read_takes_either_form_of_the_right_file(tmp_path, gzipped):
    folder = fill(tmp_path / "data", gzipped=gzipped)
    np.testing.assert_array_equal(files.read(folder, "t10k-labels-idx1-ubyte"), LABELS)
    np.testing.assert_array_equal(files.read(folder, "t10k-images-idx3-ubyte"), IMAGES)


def test_read_refuses_another_file_of_the_right_form(tmp_path):
    folder = fill(tmp_path / "data")
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[::-1])))
    with pytest.raises(
        DataError, match=r"t10k-labels-idx1-ubyte\.gz: expected SHA-256 [0-9a-f]{64} .* got [0-9a-f]{64}"
    ):
        files.read(folder, "t10k-labels-idx1-ubyte")


def test_locate_finds_the_folder_above_the_working_directory(tmp_path, monkeypatch):
    folder = fill(tmp_path / "data/fashion-mnist")
    (tmp_path / "suite/deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "suite/deep")
    assert files.locate() == folder


def test_locate_prefers_the_folder_that_the_environment_names(tmp_path, monkeypatch):
    fill(tmp_path / "data/fashion-mnist")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(files.ENVIRONMENT_VARIABLE, str(fill(tmp_path / "mine")))
    assert files.locate() == tmp_path / "mine"


def test_locate_refuses_an_incomplete_folder_that_the_environment_names(tmp_path, monkeypatch):
    """What the user named is not replaced in silence by what lies elsewhere."""
    fill(tmp_path / "data/fashion-mnist")
    monkeypatch.chdir(tmp_path)
    (fill(tmp_path / "mine") / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setenv(files.ENVIRONMENT_VARIABLE, str(tmp_path / "mine"))
    with pytest.raises(DataError, match="got no t10k-labels-idx1-ubyte: correct the folder"):
        files.locate()


def test_locate_takes_debians_folder_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(files.DEBIAN_FOLDER)
    assert files.locate() == files.DEBIAN_FOLDER


def test_locate_without_files_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="run `make data`"):
        files.locate()


def test_a_part_of_a_download_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = fill(tmp_path / "data/fashion-mnist")
    (folder / "train-images-idx3-ubyte.gz").rename(folder / "train-images-idx3-ubyte.gz.part")
    with pytest.raises(DataError, match="got none of these whole"):
        files.locate()


def test_download_leaves_the_file_and_nothing_else(tmp_path):
    with serving({"a.gz": PACKED}) as server:
        files.download(f"{server.base}/a.gz", tmp_path / "new/a.gz", DIGEST)
    assert (tmp_path / "new/a.gz").read_bytes() == PACKED
    assert everything_in(tmp_path / "new") == ["a.gz"]


def test_download_that_breaks_off_is_gone_on_with(tmp_path):
    """The second call asks only for the bytes that the first did not get."""
    target = tmp_path / "a.gz"
    with (
        serving({"a.gz": PACKED}, cut=100) as server,
        pytest.raises(OSError, match=r"broke off after 100 of \d+ bytes"),
    ):
        files.download(f"{server.base}/a.gz", target, DIGEST)
    assert everything_in(tmp_path) == ["a.gz.part"]
    with serving({"a.gz": PACKED}) as server:
        files.download(f"{server.base}/a.gz", target, DIGEST)
        assert server.asked == [("/a.gz", "bytes=100-")]
    assert target.read_bytes() == PACKED
    assert everything_in(tmp_path) == ["a.gz"]


def test_download_starts_over_where_the_server_knows_no_ranges(tmp_path):
    (tmp_path / "a.gz.part").write_bytes(PACKED[:100])
    with serving({"a.gz": PACKED}, ranges=False) as server:
        files.download(f"{server.base}/a.gz", tmp_path / "a.gz", DIGEST)
    assert (tmp_path / "a.gz").read_bytes() == PACKED


def test_download_takes_a_part_that_was_whole(tmp_path):
    """Killed between the last byte and the rename: the server has nothing behind it, and the digest decides."""
    (tmp_path / "a.gz.part").write_bytes(PACKED)
    with serving({"a.gz": PACKED}) as server:
        files.download(f"{server.base}/a.gz", tmp_path / "a.gz", DIGEST)
        assert len(server.asked) == 1
    assert everything_in(tmp_path) == ["a.gz"]


def test_download_starts_over_when_the_part_was_of_another_file(tmp_path):
    (tmp_path / "a.gz.part").write_bytes(b"x" * 100)
    with serving({"a.gz": PACKED}) as server:
        files.download(f"{server.base}/a.gz", tmp_path / "a.gz", DIGEST)
        assert server.asked == [("/a.gz", "bytes=100-"), ("/a.gz", None)]
    assert (tmp_path / "a.gz").read_bytes() == PACKED


@pytest.mark.parametrize(
    "body",
    [gzip.compress(b"another file"), PACKED[:-10], b"<html>log in first</html>"],
    ids=["wrong digest", "truncated at the source", "a web page"],
)
def test_download_of_the_wrong_bytes_names_the_file_and_leaves_nothing(tmp_path, body):
    with serving({"a.gz": body}) as server, pytest.raises(DataError, match=r"a\.gz: expected"):
        files.download(f"{server.base}/a.gz", tmp_path / "a.gz", DIGEST)
    assert everything_in(tmp_path) == []


def test_download_from_a_silent_server_ends(tmp_path):
    with contextlib.closing(files_socket()) as silent, pytest.raises(OSError, match="timed out"):
        files.download(f"http://127.0.0.1:{silent.getsockname()[1]}/a.gz", tmp_path / "new/a.gz", DIGEST)
    assert everything_in(tmp_path) == []


def files_socket():
    """A socket that lets a client connect and never answers."""
    import socket

    return socket.create_server(("127.0.0.1", 0))


def test_fetch_takes_what_lies_in_the_folder(tmp_path):
    assert files.fetch(fill(tmp_path / "data")) == tmp_path / "data"


def test_fetch_refuses_a_damaged_file_and_keeps_the_users_folder(tmp_path):
    """A file of the user's is never deleted or fetched over: the message says which one to delete."""
    folder = fill(tmp_path / "data")
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz: .* delete it and run `make data`"):
        files.fetch(folder)
    assert len(everything_in(folder)) == 4


def test_fetch_takes_debians_files_where_they_are(tmp_path):
    fill(files.DEBIAN_FOLDER)
    assert files.fetch(tmp_path / "data") == files.DEBIAN_FOLDER
    assert not (tmp_path / "data").exists()


def test_fetch_goes_to_the_next_source_when_one_fails(tmp_path, monkeypatch):
    contents = {f"{name}.gz": gzip.compress(payload) for name, payload in PAYLOADS.items()}
    with serving({}) as empty, serving(contents) as full:
        monkeypatch.setattr(files, "UPSTREAM", (empty.base, full.base))
        assert files.fetch(tmp_path / "data") == tmp_path / "data"
    assert everything_in(tmp_path / "data") == sorted(contents)


def test_fetch_gets_only_what_is_missing(tmp_path, monkeypatch):
    folder = fill(tmp_path / "data")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with serving({"t10k-labels-idx1-ubyte.gz": gzip.compress(PAYLOADS["t10k-labels-idx1-ubyte"])}) as server:
        monkeypatch.setattr(files, "UPSTREAM", (server.base,))
        files.fetch(folder)
        assert len(server.asked) == 1


def test_fetch_without_any_source_names_them_all_and_leaves_nothing(tmp_path, monkeypatch):
    with serving({}) as empty:
        monkeypatch.setattr(files, "UPSTREAM", (empty.base,))
        with pytest.raises(DataError, match=f"no apt-get on this machine\n.*{empty.base}.*404") as raised:
            files.fetch(tmp_path / "data")
    assert "put the four .gz files" in str(raised.value)
    assert not (tmp_path / "data").exists()


def debian_package(folder, *, payloads=PAYLOADS):
    """Stand in for apt-get and dpkg-deb: one leaves a package, the other unpacks it."""
    calls = []

    def call(command, *, timeout_s, folder=None):
        calls.append(command)
        if command[1] == "download":
            (folder / f"{files.DEBIAN_PACKAGE}_1_all.deb").write_bytes(b"")
        elif command[0] == "dpkg-deb":
            inside = Path(command[-1]) / files.DEBIAN_FOLDER.relative_to("/")
            inside.mkdir(parents=True)
            for name, payload in payloads.items():
                (inside / f"{name}.gz").write_bytes(gzip.compress(payload))
        elif command[1] == "install":
            raise DataError("apt-get install: ended with 100: unable to lock")

    return call, calls


def test_fetch_unpacks_debians_package_where_it_cannot_be_installed(tmp_path, monkeypatch):
    call, calls = debian_package(tmp_path)
    monkeypatch.setattr(files.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(files.os, "geteuid", lambda: 0, raising=False)
    monkeypatch.setattr(files, "_call", call)
    assert files.fetch(tmp_path / "data") == tmp_path / "data"
    assert [command[1] for command in calls] == ["update", "install", "download", "-x"]
    assert everything_in(tmp_path / "data") == sorted(f"{name}.gz" for name in PAYLOADS)


def test_fetch_without_root_asks_apt_for_nothing_that_needs_it(tmp_path, monkeypatch):
    call, calls = debian_package(tmp_path)
    monkeypatch.setattr(files.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(files.os, "geteuid", lambda: 1000, raising=False)
    monkeypatch.setattr(files, "_call", call)
    files.fetch(tmp_path / "data")
    assert [command[1] for command in calls] == ["download", "-x"]


def test_fetch_refuses_a_package_with_other_files(tmp_path, monkeypatch):
    call, _ = debian_package(tmp_path, payloads={name: idx(LABELS[:2]) for name in PAYLOADS})
    monkeypatch.setattr(files.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(files.os, "geteuid", lambda: 1000, raising=False)
    monkeypatch.setattr(files, "_call", call)
    with pytest.raises(DataError, match="expected SHA-256"):
        files.fetch(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_command_that_fails_is_told_with_its_last_line():
    with pytest.raises(DataError, match="sh -c: ended with 3: what went wrong"):
        files._call(["sh", "-c", "echo first; echo what went wrong; exit 3"], timeout_s=10)


def test_main_ends_with_the_error_s_code(tmp_path, caplog):
    assert files.main(["--to", str(tmp_path / "data")]) == 4
    assert "expected Fashion-MNIST from one of its sources" in caplog.text


def test_main_says_where_the_files_are(tmp_path, caplog):
    caplog.set_level("INFO")
    assert files.main(["--to", str(fill(tmp_path / "data"))]) == 0
    assert f"complete and checked, in {tmp_path / 'data'}" in caplog.text
