"""The application's side: the Router, what a dispatch returns, what a handler is told."""
