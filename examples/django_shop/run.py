"""A shop with Django. Run it: python examples/django_shop/run.py

That places a few orders, then runs a worker. To serve it: cd examples, there

    export DJANGO_SETTINGS_MODULE=django_shop.settings ROUTER_CONFIG=django_shop/extensions.yaml
    python -m django migrate --run-syncdb
    gunicorn --preload --workers 2 'django.core.wsgi:get_wsgi_application()'

and, in another terminal, ``router run-worker``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def customers() -> None:
    """What a few of them ask for."""
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application
    from django.test import Client

    get_wsgi_application()
    call_command("migrate", run_syncdb=True, verbosity=0)
    client = Client()
    for method, path in [("POST", "/orders/lamp"), ("POST", "/orders/unicorn"), ("GET", "/orders")]:
        answer = client.generic(method, path)
        print(f"{method} {path}: {answer.status_code} {answer.json()}", flush=True)


def main() -> None:
    """The customers, then a worker."""
    sys.path.insert(0, str(HERE.parent))
    with tempfile.TemporaryDirectory(prefix="router-django-") as folder:
        os.environ.setdefault("ROUTER_BROKER_URL", f"sqlite:///{folder}/router.db")
        os.environ["SHOP_DATABASE"] = f"{folder}/shop.db"
        os.environ["ROUTER_CONFIG"] = str(HERE / "extensions.yaml")
        os.environ["DJANGO_SETTINGS_MODULE"] = "django_shop.settings"
        customers()
        command = [str(Path(sys.executable).with_name("router")), "run-worker"]
        options = ["--stop-when-empty", "--concurrency", "1", "--log-level", "warning"]
        subprocess.run([*command, *options], check=True, timeout=60)


if __name__ == "__main__":
    main()
