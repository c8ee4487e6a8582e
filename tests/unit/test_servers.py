"""What the tests' own servers rely on."""

from __future__ import annotations

import socket

from tests.servers.process import free_ports


def test_no_other_test_is_handed_out_the_port_of_a_server_that_has_not_taken_it_yet() -> None:
    chosen = free_ports(20)
    assert len(set(chosen)) == 20
    with socket.socket() as handed_out:
        handed_out.bind(("127.0.0.1", 0))
        assert max(chosen) < handed_out.getsockname()[1]
