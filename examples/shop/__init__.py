"""A small shop: its handlers know nothing of queues, retries or timeouts. ``config/extensions.yaml`` decides those.

``events`` is what can happen, ``extensions`` the bootstrap; ``inventory``, ``billing``, ``mail``, ``catalog`` and
``reports`` are handlers, ``alerts`` the callbacks. ``outside`` stands for the bank and the mail server, and is the only
part that pretends.
"""
