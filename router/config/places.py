"""Where the file is looked for, and what names it."""

from __future__ import annotations

DEFAULT_PLACES = ("extensions.yaml", "config/extensions.yaml")
VARIABLE = "ROUTER_CONFIG"
ENV_VARIABLE = "ROUTER_ENV"
