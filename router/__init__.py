"""A declarative event router: ``extensions.yaml`` says which handlers run for each event, now and on a queue."""
