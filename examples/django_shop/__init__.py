"""A shop with Django. Run it: python examples/django_shop/run.py"""
