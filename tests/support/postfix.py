"""Postfix as an instance of its own, in a directory of its own: it takes mails, and lays them into mailboxes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import trustme

from tests.support.needs import needs
from tests.support.service import wait_until

POSTFIX = Path("/usr/sbin/postfix")
COMMAND_S = 60.0
MAILBOX_UID = 65_534  # who owns the mailboxes: nobody
MAIN = """\
compatibility_level = 3.6
queue_directory = {dir}/queue
data_directory = {dir}/data
maillog_file = {dir}/log
maillog_file_prefixes = {dir}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
myhostname = mail.test
mydestination =
virtual_mailbox_domains = example.org
virtual_mailbox_base = {dir}/mail
virtual_mailbox_maps = inline:{{ {boxes} }}
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{uid}
alias_maps =
alias_database =
smtpd_tls_chain_files = {dir}/server.pem
smtpd_tls_security_level = encrypt
"""
MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
postlog unix-dgram n - n - 1 postlogd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
showq unix n - n - - showq
virtual unix - n n - - virtual
"""


class Postfix:
    """A context manager. ``users`` have mailboxes at example.org; STARTTLS is asked for, by a certificate of ``ca``."""

    def __init__(self, users: tuple[str, ...]) -> None:
        needs(POSTFIX.exists(), "postfix is not installed")
        if os.geteuid() != 0:
            pytest.skip("postfix is started by root only")
        self.directory = Path(tempfile.mkdtemp(prefix="postfix-test-"))
        self.directory.chmod(0o755)  # its processes drop their privileges
        self.port = _free_port()
        ca = trustme.CA()
        self.ca_file = self.directory / "ca.pem"
        ca.cert_pem.write_to_path(self.ca_file)
        ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(self.directory / "server.pem")
        for name in ("queue", "data", "mail"):
            (self.directory / name).mkdir()
            (self.directory / name).chmod(0o755)  # whatever the umask is, which the service itself narrows
        shutil.chown(self.directory / "data", "postfix")
        os.chown(self.directory / "mail", MAILBOX_UID, MAILBOX_UID)
        boxes = ", ".join(f"{{{user}@example.org = {user}/}}" for user in users)
        (self.directory / "main.cf").write_text(MAIN.format(dir=self.directory, boxes=boxes, uid=MAILBOX_UID))
        (self.directory / "master.cf").write_text(MASTER.format(port=self.port))

    def mails_to(self, user: str) -> list[bytes]:
        """What lies in a mailbox."""
        box = self.directory / "mail" / user / "new"
        return [file.read_bytes() for file in box.iterdir()] if box.exists() else []

    def __enter__(self) -> Self:
        try:
            self._run("start")
            wait_until(self._listens, COMMAND_S, "Postfix listens")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if (self.directory / "queue" / "pid" / "master.pid").exists():
            self._run("stop")
        shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self, command: str) -> None:
        with (self.directory / "said").open("w+") as said:  # no pipe: what it starts would hold it open
            done = subprocess.run(
                [POSTFIX, "-c", str(self.directory), command],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                timeout=COMMAND_S,
                check=False,
                umask=0o022,
            )
            said.seek(0)
            log = self.directory / "log"
            assert done.returncode == 0, f"{said.read()}\n{log.read_text() if log.exists() else ''}"

    def _listens(self) -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
