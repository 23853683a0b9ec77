"""A private PostgreSQL server for tests: started from the system's binaries in a temporary folder, stopped at the end.

It listens on a Unix socket in that folder only. PostgreSQL refuses to run as root, so root runs it as another user.
"""

from __future__ import annotations

import getpass
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg

START_SECONDS = 30.0
MEMORY_BYTES = 2**30
UNPRIVILEGED = ("postgres", "nobody")


def find_binaries() -> Path | None:
    """The folder with `initdb` and `postgres`, the newest version first; None if there is none."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    if on_path:
        folders.append(Path(on_path).resolve().parent)
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


class PostgresServer:
    """A server while the `with` block lasts.

    `new_schema` gives a URL for a test, `new_database` for one that dumps and restores.
    """

    def __init__(self, binaries: Path) -> None:
        self.binaries = binaries
        self.user = _unprivileged_user()

    def __enter__(self) -> PostgresServer:
        self.folder = Path(tempfile.mkdtemp(prefix="lineup-pg-", dir=_fast_folder()))
        if self.user:
            shutil.chown(self.folder, self.user)
        try:
            self._initialise()
            self._start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.send_signal(signal.SIGQUIT)  # at once, without writing anything: the folder goes too
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_database(self) -> str:
        """Create an empty database and give its URL."""
        name = f"t{secrets.token_hex(6)}"
        self._execute(f"CREATE DATABASE {name}")
        return f"postgresql://lineup@/{name}?host={self.folder}"

    def new_schema(self) -> str:
        """Create an empty schema and give the URL of a database that seems to hold nothing else.

        A database is a thousand files, a schema is none.
        """
        name = f"t{secrets.token_hex(6)}"
        self._execute(f"CREATE SCHEMA {name}")
        return f"postgresql://lineup@/postgres?host={self.folder}&options=-csearch_path%3D{name}"

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's own programs, such as `pg_dump`, against this server."""
        subprocess.run(
            [self.binaries / program, "-h", self.folder, "-U", "lineup", *arguments], check=True, capture_output=True
        )

    def _conninfo(self, database: str) -> str:
        return f"host={self.folder} user=lineup dbname={database}"

    def _initialise(self) -> None:
        command: list[str | Path] = [self.binaries / "initdb", "--auth=trust", "--username=lineup", "--encoding=UTF8"]
        command += ["--no-sync", "-D", self.folder / "db"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, **self._identity())
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{done.stderr[-2000:]}")

    def _start(self) -> None:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "max_connections": 60,
        }
        arguments: list[str] = [item for name, value in options.items() for item in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.folder / "db", *arguments],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self._identity(),
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self._conninfo("postgres")).close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.process.kill()
                    self.process.wait()
                    text = (self.folder / "log").read_text(errors="replace")
                    raise RuntimeError(f"the PostgreSQL server did not start:\n{text[-2000:]}") from None
                time.sleep(0.05)

    def _identity(self) -> dict[str, Any]:
        if not self.user:
            return {}
        entry = pwd.getpwnam(self.user)
        environment = {**os.environ, "HOME": str(self.folder)}
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "env": environment}


def why_not() -> str | None:
    """Why no server can be started here; None if it can."""
    if find_binaries() is None:
        return "no PostgreSQL server binaries (initdb, postgres) on PATH or in /usr/lib/postgresql/*/bin"
    if os.geteuid() == 0 and _unprivileged_user() is None:
        return f"PostgreSQL refuses to run as {getpass.getuser()}, and there is no user {' or '.join(UNPRIVILEGED)}"
    return None


def _fast_folder() -> str:
    """Memory if there is plenty, else the disk. A short path, for a socket's has 107 bytes at most."""
    memory = "/dev/shm"
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_BYTES
    return memory if roomy else "/tmp"


def _unprivileged_user() -> str | None:
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in UNPRIVILEGED if name in known), None)
