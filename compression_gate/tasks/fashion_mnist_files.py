"""The four files of Fashion-MNIST: found, fetched where they are missing, and checked byte for byte.

Source: Xiao, Rasul and Vollgraf, 2017, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
algorithms", https://github.com/zalandoresearch/fashion-mnist (MIT licence). The idx format: LeCun, Cortes and Burges,
1998, "The MNIST database of handwritten digits", section "File formats".
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import logging
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compression_gate.errors import DataError

if TYPE_CHECKING:
    import numpy

log = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "FASHION_MNIST_DIR"
FOLDER = Path("data/fashion-mnist")
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist"

# SHA-256 of the decompressed files: those upstream and those Debian ships differ in nothing but the gzip headers.
DIGESTS: Mapping[str, str] = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
# The second has no TLS; the digests above are what makes either of them fit to be trusted.
UPSTREAM = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
)
STALL_S = 20.0  # [s] without a byte: a host that is silent this long is rarely back within a minute
APT_UPDATE_S = 180  # [s] the package lists are some tens of megabytes
APT_FETCH_S = 300  # [s] the package is 31 MB
_CHUNK = 1 << 16


def locate() -> Path:
    """Return the folder that holds all four files.

    Looked at in this order: the folder that the environment variable names, ``data/fashion-mnist`` in the working
    directory and in each folder above it, Debian's folder.

    Raises:
        DataError: none of them has all four; the message lists them and says how to get the files.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        if missing := _missing(Path(named)):
            raise DataError(
                f"{ENVIRONMENT_VARIABLE}={named}: expected {', '.join(DIGESTS)} there (each as it is or with .gz), "
                f"got no {', '.join(missing)}: correct the folder, or unset {ENVIRONMENT_VARIABLE}"
            )
        return Path(named)
    here = Path.cwd()
    folders = [*(folder / FOLDER for folder in (here, *here.parents)), DEBIAN_FOLDER]
    for folder in folders:
        if not _missing(folder):
            return folder
    raise DataError(
        f"Fashion-MNIST: expected its four files in {folders[0]}, in {FOLDER} of a folder above, or in "
        f"{DEBIAN_FOLDER}; got none of these whole: run `make data`, "
        f"or python -m compression_gate.tasks.fashion_mnist_files --to {folders[0]}"
    )


def read(folder: Path, name: str) -> numpy.ndarray:
    """Read one of the four files, checked against the digest that this module knows.

    Args:
        folder: as ``locate`` returns it.
        name: one of ``DIGESTS``, without ``.gz``.

    Returns:
        uint8, in the shape the header declares: ``(N, H, W)`` for images, ``(N,)`` for labels. Not writable.

    Raises:
        DataError: missing, damaged, or not the file that upstream published.
    """
    path = _present(folder, name)
    if path is None:
        raise DataError(f"{folder / name}: expected it, or {name}.gz, got neither: run `make data`")
    payload = _payload(path)
    _check_digest(path, payload, DIGESTS[name])
    return _parse_idx(payload)


def fetch(to: Path) -> Path:
    """Make sure that the four files are somewhere, and return the folder where they are.

    Tries in this order: ``to``, Debian's folder, Debian's package, upstream over the network. A file gets its name only
    once its digest is right; a download that broke off stays as ``.part`` and is gone on with the next time.

    Raises:
        DataError: a file is damaged, or no source could be reached; the message names every source and what it said.
    """
    for folder in (to, DEBIAN_FOLDER):
        if not _missing(folder):
            _verify(folder)
            return folder
    said: list[str] = []
    sources: dict[str, Callable[[Path], Path]] = {f"Debian's package {DEBIAN_PACKAGE}": _from_debian}
    sources |= {base: _downloader(base) for base in UPSTREAM}
    for source, obtain in sources.items():
        log.info("Fashion-MNIST: from %s", source)
        try:
            folder = obtain(to)
            _verify(folder)
            return folder
        except (DataError, OSError, subprocess.SubprocessError) as error:
            log.info("  not from there: %s", error)
            said.append(f"{source}: {error}")
    raise DataError(
        f"{to}: expected Fashion-MNIST from one of its sources, got from\n  "
        + "\n  ".join(said)
        + f"\nput the four .gz files of https://github.com/zalandoresearch/fashion-mnist into {to} and run again"
    )


def download(url: str, path: Path, digest: str) -> None:
    """Download ``url`` to ``path``, going on with ``path`` + ``.part`` where one lies there.

    Args:
        url: of a file, gzipped or not.
        path: gets its name only when all of it has arrived and is right.
        digest: SHA-256 of the decompressed bytes.

    Raises:
        OSError: the connection failed, stalled or broke off; what has arrived stays in the ``.part`` file.
        DataError: all of it arrived and it is not the expected file; nothing stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    resumed = part.exists() and part.stat().st_size > 0
    try:
        _receive(url, part)
    finally:
        _leave_nothing_empty(part)
    try:
        _check_digest(path, _payload(part, shown=path), digest)
    except DataError:
        part.unlink()
        if not resumed:
            raise
        # The old part may have been of another file: one clean try before blaming the source.
        download(url, path, digest)
        return
    part.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch the files as `make data` does; returns the exit code."""
    parser = argparse.ArgumentParser(description="Find or fetch Fashion-MNIST and check it.")
    parser.add_argument("--to", type=Path, default=FOLDER, help="where fetched files go (default: %(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        folder = fetch(options.to)
    except DataError as error:
        log.error("%s", error)
        return error.exit_code
    log.info("Fashion-MNIST: complete and checked, in %s", folder)
    return 0


def _present(folder: Path, name: str) -> Path | None:
    """Return the path of ``name``, plain or gzipped, or None."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _missing(folder: Path) -> list[str]:
    """Return the names of the files that ``folder`` lacks."""
    return [name for name in DIGESTS if _present(folder, name) is None]


def _verify(folder: Path) -> None:
    """Check the digests of all four files."""
    for name, digest in DIGESTS.items():
        if (path := _present(folder, name)) is None:
            raise DataError(f"{folder / name}: expected it, or {name}.gz, got neither: fetch it again")
        _check_digest(path, _payload(path), digest)


def _payload(path: Path, *, shown: Path | None = None) -> bytes:
    """Return the decompressed bytes; errors name ``shown`` instead of ``path`` where it is given."""
    try:
        data = path.read_bytes()
        # By content, not by name: a part of a download ends in neither .gz nor anything else that tells.
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except FileNotFoundError as error:
        raise DataError(f"{shown or path}: expected a file, got nothing: run `make data`") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{shown or path}: expected a whole gzip file, got {path.stat().st_size} bytes that end or break early "
            f"({error}): delete it and run `make data`"
        ) from error
    except OSError as error:
        raise DataError(f"{shown or path}: expected a readable file, got {error}: correct its permissions") from error


def _check_digest(path: Path, payload: bytes, expected: str) -> None:
    got = hashlib.sha256(payload).hexdigest()
    if got != expected:
        raise DataError(
            f"{path}: expected SHA-256 {expected} of the decompressed bytes, got {got} over {len(payload)} bytes: "
            "delete it and run `make data`"
        )


def _parse_idx(payload: bytes) -> numpy.ndarray:
    """Turn the bytes of an idx file, of which the digest was right, into an array that is not writable."""
    import numpy

    dimensions = payload[3]
    shape = struct.unpack_from(f">{dimensions}I", payload, 4)
    return numpy.frombuffer(payload, dtype=numpy.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _downloader(base: str) -> Callable[[Path], Path]:
    """Return what downloads the missing files from under ``base``."""

    def obtain(to: Path) -> Path:
        for name in _missing(to):
            download(f"{base}/{name}.gz", to / f"{name}.gz", DIGESTS[name])
        return to

    return obtain


def _receive(url: str, part: Path) -> None:
    """Append to ``part`` what it lacks of ``url``, or write it anew where the server knows no ranges."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 -- http(s) only, see UPSTREAM
    try:
        reply = urllib.request.urlopen(request, timeout=STALL_S)  # noqa: S310 -- as above
    except urllib.error.HTTPError as error:
        with error:
            if have and error.code == 416:
                return  # nothing lies behind what we have: it is whole, or wrong, as its digest will tell
        raise
    with reply:
        goes_on = reply.status == 206 and reply.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if reply.status == 206 and not goes_on:
            raise OSError(f"{url}: asked for the bytes from {have} on, got {reply.headers.get('Content-Range')!r}")
        length = reply.headers.get("Content-Length")
        received = 0
        with part.open("ab" if goes_on else "wb") as file:
            while chunk := reply.read(_CHUNK):
                file.write(chunk)
                received += len(chunk)
    if length is not None and received != int(length):
        raise OSError(f"{url}: broke off after {received} of {length} bytes; run again to go on from there")


def _leave_nothing_empty(part: Path) -> None:
    """Remove a part without a byte, and its folder where nothing else is in it."""
    if part.exists() and part.stat().st_size == 0:
        part.unlink()
    if not any(part.parent.iterdir()):
        part.parent.rmdir()


def _from_debian(to: Path) -> Path:
    """Install Debian's package as root, else unpack it into ``to``."""
    if shutil.which("apt-get") is None:
        raise DataError("no apt-get on this machine")
    if os.geteuid() == 0:
        # Without fresh lists a new machine knows no packages; where they cannot be renewed the old ones may do.
        with contextlib.suppress(DataError):
            _call(["apt-get", "update", *_APT_OPTIONS], timeout_s=APT_UPDATE_S)
        try:
            _call(
                ["apt-get", "install", "--yes", "--no-install-recommends", *_APT_OPTIONS, DEBIAN_PACKAGE],
                timeout_s=APT_FETCH_S,
            )
        except DataError as error:
            log.info("  cannot be installed (%s); unpacking it instead", error)
        else:
            return DEBIAN_FOLDER
    with tempfile.TemporaryDirectory(prefix="fashion-mnist-") as folder:
        unpacked = Path(folder, "unpacked")
        _call(["dpkg-deb", "-x", str(_package(Path(folder))), str(unpacked)], timeout_s=APT_FETCH_S)
        for name, digest in DIGESTS.items():
            source = _present(unpacked / DEBIAN_FOLDER.relative_to("/"), name)
            if source is None:
                raise DataError(f"{DEBIAN_PACKAGE}: expected {name} in it, got a package without")
            _check_digest(source, _payload(source), digest)
            with _named_when_whole(to / source.name) as temporary:
                shutil.copyfile(source, temporary)
    return to


def _package(folder: Path) -> Path:
    """Download Debian's package into ``folder``, with the system's lists or, where these lack it, with private ones."""
    lists, cache = folder / "lists", folder / "cache"
    (lists / "partial").mkdir(parents=True)
    (cache / "archives" / "partial").mkdir(parents=True)
    private = ["-o", f"Dir::State::Lists={lists}/", "-o", f"Dir::Cache={cache}/", "-o", "APT::Sandbox::User="]
    fetching = ["apt-get", "download", *_APT_OPTIONS]
    try:
        _call([*fetching, "-o", "APT::Sandbox::User=", DEBIAN_PACKAGE], timeout_s=APT_FETCH_S, folder=folder)
    except DataError:
        _call(["apt-get", "update", *_APT_OPTIONS, *private], timeout_s=APT_UPDATE_S)
        _call([*fetching, *private, DEBIAN_PACKAGE], timeout_s=APT_FETCH_S, folder=folder)
    found = sorted(folder.glob(f"{DEBIAN_PACKAGE}_*.deb"))
    if not found:
        raise DataError(f"apt-get download {DEBIAN_PACKAGE}: expected a .deb file, got none")
    return found[-1]


_APT_OPTIONS = ("-q", "-o", f"Acquire::http::Timeout={STALL_S:.0f}", "-o", f"Acquire::https::Timeout={STALL_S:.0f}")


def _call(command: Sequence[str], *, timeout_s: float, folder: Path | None = None) -> None:
    """Run a command without input; its output is shown only in the error.

    Raises:
        DataError: it could not be started, took longer than ``timeout_s`` [s], or ended with another code than 0.
    """
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"{' '.join(command[:2])}: {error}") from error
    if done.returncode:
        last = (done.stdout.strip() or "no output").splitlines()[-1]
        raise DataError(f"{' '.join(command[:2])}: ended with {done.returncode}: {last}")


@contextlib.contextmanager
def _named_when_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the name of ``path`` when the block ends well, and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
