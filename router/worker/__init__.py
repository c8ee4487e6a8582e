"""The worker: a parent that owns the broker's deliveries, and children in which handlers run."""
