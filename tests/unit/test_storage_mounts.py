"""Which file systems are refused, from the kernel's own words."""

from __future__ import annotations

import pytest

from router.storage.mounts import file_system_of, network_file_system

MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
40 22 0:40 / /mnt/nfs rw,relatime shared:5 master:2 - nfs4 server:/export rw,vers=4.2
41 22 0:41 / /mnt/c rw - 9p C:\134 rw,dirsync
42 22 0:42 / /mnt/with\040space rw - cifs //server/share rw
43 40 254:1 / /mnt/nfs/local rw - xfs /dev/vdb rw
44 22 0:44 / /home/me/remote rw - fuse.sshfs me@host: rw
45 22 0:45 / /twice rw - nfs a:/b rw
46 22 0:46 / /twice rw - tmpfs tmpfs rw
not a mount
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/work/router.db", None),
        ("/mnt/nfs/router.db", "nfs4"),
        ("/mnt/nfs", "nfs4"),
        ("/mnt/nfs-not/router.db", None),
        ("/mnt/nfs/local/router.db", None),
        ("/mnt/c/Users/router.db", "9p"),
        ("/mnt/with space/router.db", "cifs"),
        ("/home/me/remote/a/b/router.db", "fuse.sshfs"),
        ("/home/me/router.db", None),
        ("/twice/router.db", None),
    ],
)
def test_network_file_systems(path: str, kind: str | None) -> None:
    assert network_file_system(path, MOUNTS) == kind


def test_a_root_that_is_9p_counts_for_its_own_files_only() -> None:
    mounts = "1 0 0:1 / / rw - 9p root rw\n2 1 0:2 / /data rw - ext4 /dev/vda rw\n"
    assert network_file_system("/etc/router.db", mounts) == "9p"
    assert network_file_system("/data/router.db", mounts) is None


def test_unknown_text() -> None:
    assert file_system_of("/x", "") is None
    assert file_system_of("/x", "garbage - \n1 2 3 - ext4") is None
