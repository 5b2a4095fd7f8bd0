"""Telling a network file system from a list of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxai.storage.sqlite_place import file_system_of

MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
tmpfs /mnt tmpfs rw 0 0
server:/home /mnt/home nfs4 rw,vers=4.2 0 0
/dev/vdb /mnt/home/local\\040disk xfs rw 0 0
host:/data /srv/data fuse.sshfs rw 0 0
autofs /srv/again autofs rw 0 0
server:/x /srv/again nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/fluxai.db", "ext4"),
        ("/mnt/fluxai.db", "tmpfs"),
        ("/mnt/home/fluxai.db", "nfs4"),
        ("/mnt/homestead/fluxai.db", "tmpfs"),
        ("/mnt/home/local disk/fluxai.db", "xfs"),
        ("/srv/data/deep/down/fluxai.db", "fuse.sshfs"),
        ("/srv/again/fluxai.db", "nfs"),
    ],
)
def test_the_innermost_and_latest_mount_decides(path: str, kind: str) -> None:
    """A path lies on the mount that covers it most closely, and covers others of that place."""
    assert file_system_of(Path(path), MOUNTS) == kind


def test_an_unknown_or_odd_table_names_nothing() -> None:
    """Where the system tells nothing useful, nothing is concluded."""
    assert file_system_of(Path("/x"), "") is None
    assert file_system_of(Path("/x"), "odd line\n\n") is None
