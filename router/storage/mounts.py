"""Which file system a path is on, as far as the kernel tells; SQLite's locks and shared memory need a local one."""

from __future__ import annotations

import re

NETWORK_FILE_SYSTEMS = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.ceph",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb3",
        "smbfs",
    }
)

_OCTAL = re.compile(r"\\([0-7]{3})")


def file_system_of(path: str, mountinfo: str) -> str | None:
    """The type of the file system that holds the absolute ``path``, symbolic links resolved already.

    ``mountinfo`` is the text of ``/proc/self/mountinfo`` (see proc_pid_mountinfo(5)). None if no mount fits.
    """
    best, found = -1, None
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # a later mount on the same point hides the earlier one
            best, found = len(point), after.split(" ", 1)[0]
    return found


def network_file_system(path: str, mountinfo: str) -> str | None:
    """The type of the file system of ``path`` if it is one that several hosts share, else None."""
    kind = file_system_of(path, mountinfo)
    return kind if kind in NETWORK_FILE_SYSTEMS else None
