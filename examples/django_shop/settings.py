"""Django's settings."""

import os
from pathlib import Path

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "of an example")
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["django_shop"]
ROOT_URLCONF = "django_shop.views"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE", Path(__file__).parent / "shop.db"),
    }
}
